"""The values that options, markers and strategies choose from.

Guarantee: knowing them loads neither torch nor Hypothesis.
"""

MODES = ("eval", "train")
DTYPES = ("float64", "float32", "float16", "bfloat16")
# The keys of `blocks.forms.FORMS`, which would load torch.
FORM_NAMES = ("per-branch", "concatenated", "grouped")
