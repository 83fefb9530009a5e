"""Pairs whose answer is known, hard ones included: no false alarm, no miss."""

import copy
import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from equivalence import BlockSpec, Concatenated, Grouped, PerBranch, Verdict, check, transfer
from tests.strategies import randomised

EQUIVALENT, DIFFERENT, UNDECIDED = Verdict.EQUIVALENT, Verdict.DIFFERENT, Verdict.UNDECIDED
SHAPE = (2, 4, 6, 6)


class Program(nn.Module):
    """A forward pass written on the spot, with the submodules it uses."""

    def __init__(self, body, **parts):
        super().__init__()
        self.body = body
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        return self.body(self, x)


def conv(inputs=4, outputs=4, kernel=3, *, seed=0, **options):
    options.setdefault("padding", options.get("dilation", 1) * (kernel // 2))
    return randomised(nn.Conv2d(inputs, outputs, kernel, **options), seed)


def norm(channels=4, *, seed=0, **options):
    module = randomised(nn.BatchNorm2d(channels, **options), seed)
    if module.affine:
        with torch.no_grad():
            module.weight.abs_().add_(0.5)
    return module


def changed(module, change):
    """A copy, changed in place."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        change(module)
    return module


def net(activation=torch.relu, *, first=None, norm_=None, last=None):
    """Convolution, norm, activation, convolution."""
    return Program(
        lambda m, x: m.last(activation(m.norm(m.first(x)))),
        first=first or conv(bias=False),
        norm=norm_ or norm(),
        last=last or conv(seed=2),
    )


def forms(left, right, **fields):
    """Two forms of one spec, the right one with the weights of the left."""
    spec = BlockSpec(**{"in_channels": 4, "cardinality": 2, "width": 2, **fields})
    a, b = randomised(left(spec), 0), randomised(right(spec), 1)
    transfer(a, b)
    return a, b


GROUP_NORMED = {"norm": "group", "width": 4, "norm_groups": 2, "output_norm_groups": 2}


def regrouped(groups, stage):
    """Branches with group norms of their own against one norm of as many channels, in other groups."""
    branches, side_by_side = forms(PerBranch, Grouped, **GROUP_NORMED)
    side_by_side.get_submodule(stage).norm.num_groups = groups
    return branches, side_by_side


def silent_last_group_norm():
    """A last gamma of 0, as libraries start it, hides every branch."""
    pair = forms(PerBranch, Grouped, **GROUP_NORMED)
    for block in pair:
        nn.init.zeros_(block.norm.weight)
    return pair


def one_bit(parameter):
    """Flip the last bit of one float."""
    parameter.view(-1)[:1].view(torch.int32).bitwise_xor_(1)


def permuted(module, order):
    """The hidden channels in another order."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        module.first.weight.copy_(module.first.weight[order])
        for tensor in (module.norm.weight, module.norm.bias, module.norm.running_mean, module.norm.running_var):
            tensor.copy_(tensor[order].clone())
        module.last.weight.copy_(module.last.weight[:, order])
    return module


class HandNorm(nn.Module):
    """Batch norm in plain arithmetic, with buffers that are replaced and not written to."""

    def __init__(self, like, *, unbiased=True, momentum=0.25):
        super().__init__()
        self.weight, self.bias = nn.Parameter(like.weight.detach().clone()), nn.Parameter(like.bias.detach().clone())
        self.register_buffer("mean", like.running_mean.clone())
        self.register_buffer("var", like.running_var.clone())
        self.eps, self.unbiased, self.momentum = like.eps, unbiased, momentum

    def forward(self, x):
        def spread(t):
            return t.view(1, -1, 1, 1)

        mean, var = self.mean, self.var
        if self.training:
            mean = x.mean((0, 2, 3))
            var = ((x - spread(mean)) ** 2).mean((0, 2, 3))
            n, m = x.numel() // x.shape[1], self.momentum
            kept = var.detach() * n / (n - 1) if self.unbiased else var.detach()
            self.mean = (1 - m) * self.mean + m * mean.detach()
            self.var = (1 - m) * self.var + m * kept
        return (x - spread(mean)) * torch.rsqrt(spread(var) + self.eps) * spread(self.weight) + spread(self.bias)


def dense_from_grouped(grouped):
    """The block-diagonal kernel without groups."""
    dense = nn.Conv2d(grouped.in_channels, grouped.out_channels, grouped.kernel_size, padding=grouped.padding)
    o, i = grouped.out_channels // grouped.groups, grouped.in_channels // grouped.groups
    with torch.no_grad():
        dense.weight.zero_()
        dense.bias.copy_(grouped.bias)
        for g in range(grouped.groups):
            dense.weight[g * o : g * o + o, g * i : g * i + i] = grouped.weight[g * o : g * o + o]
    return dense


def padded_groups():
    """Two groups of two channels; and of three, the third being zero."""
    narrow = [conv(4, 4, 1), conv(4, 4, groups=2, seed=1), conv(4, 4, 1, seed=2)]
    wide = [conv(4, 6, 1), conv(6, 6, groups=2, seed=1), conv(6, 4, 1, seed=2)]
    own = [0, 1, 3, 4]
    with torch.no_grad():
        for layer in wide[:2]:
            layer.weight.zero_()
            layer.bias.zero_()
        wide[0].weight[own] = narrow[0].weight
        wide[0].bias[own] = narrow[0].bias
        wide[1].weight[torch.tensor(own), :2] = narrow[1].weight
        wide[1].bias[own] = narrow[1].bias
        wide[2].weight[:, own] = narrow[2].weight
        wide[2].bias.copy_(narrow[2].bias)

    def body(m, x):
        return m.c(F.relu(m.b(F.relu(m.a(x)))))

    return [Program(body, a=a, b=b, c=c) for a, b, c in (narrow, wide)]


def hand_pair(**options):
    like = norm(momentum=0.25)
    return Program(lambda m, x: m.n(x), n=like), Program(lambda m, x: m.n(x), n=HandNorm(like, **options))


def wide_tap(weight):
    """A 1×1 convolution, and one whose outer taps meet only padding on small inputs."""
    narrow, wide = conv(kernel=1), conv(kernel=3, dilation=7)
    with torch.no_grad():
        wide.weight.mul_(weight)
        wide.weight[..., 1, 1] = narrow.weight[..., 0, 0]
        wide.bias.copy_(narrow.bias)
    return narrow, wide


def tied(first, second, *, tie=True, train_second=True):
    """Two convolutions with one weight, or with two equal ones; registered in any order."""
    parts = {"a": conv(kernel=1, bias=False), "b": conv(kernel=1, bias=False)}
    if tie:
        parts["b"].weight = parts["a"].weight
    else:
        parts["b"].weight.requires_grad_(train_second)
    return Program(lambda m, x: m.b(F.relu(m.a(x))), **{first: parts[first], second: parts[second]})


class Calls(nn.Module):
    """Adds a number that, if it counts, grows with every call."""

    def __init__(self, *, counts):
        super().__init__()
        self.register_buffer("offset", torch.zeros(1))
        self.counts = counts

    def forward(self, x):
        y = x + self.offset
        if self.counts:
            self.offset.add_(1)
        return y


def same(part, left, right):
    """Two programs around one submodule."""
    return Program(left, c=copy.deepcopy(part)), Program(right, c=copy.deepcopy(part))


def two_branches(body):
    return Program(body, a=conv(), b=conv(seed=1), c=conv(seed=2))


def of_activation(activation):
    return net(activation)


RELUS = {
    "clamp": lambda x: x.clamp(min=0),
    "x * (x > 0)": lambda x: x * (x > 0),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "max of a stack": lambda x: (x + x.abs()) / 2,
    "leaky with slope 0": lambda x: F.leaky_relu(x, 0.0),
    "in place": lambda x: F.relu_(x.clone()),
}

PAIRS = []


def pair(name, make, expected, *, mode="eval", shape=SHAPE, **options):
    PAIRS.append(pytest.param(make, expected, mode, shape, options, id=f"{name}, {mode}"))


# --- the same function -----------------------------------------------------------------------------------------

for i, (a, b) in enumerate([(PerBranch, Concatenated), (Concatenated, Grouped), (Grouped, PerBranch)]):
    fields = [
        {"out_channels": 6, "stride": 2},
        {"bias": (True, True, True), "norm": "none"},
        {"dilation": 2, "shortcut": "none"},
    ][i]
    pair(f"{a.__name__} as {b.__name__}", functools.partial(forms, a, b, **fields), EQUIVALENT, shape=None)
    pair(f"{b.__name__} as {a.__name__}", functools.partial(forms, b, a), EQUIVALENT, mode="train", shape=None)
for dims in (1, 3):
    pair(f"{dims}d", functools.partial(forms, PerBranch, Grouped, spatial_dims=dims), EQUIVALENT, shape=None)
pair("momentum None", functools.partial(forms, PerBranch, Grouped, momentum=None), EQUIVALENT, mode="train", shape=None)
for left, mode in itertools.product((PerBranch, Concatenated), ("eval", "train")):
    grouped = functools.partial(forms, left, Grouped, **GROUP_NORMED)
    pair(f"group norm, {left.__name__} as Grouped", grouped, EQUIVALENT, mode=mode, shape=None)
for name, relu in RELUS.items():
    pair(f"relu as {name}", lambda relu=relu: (of_activation(F.relu), of_activation(relu)), EQUIVALENT)
pair("relu as clamp", lambda: (of_activation(F.relu), of_activation(RELUS["clamp"])), EQUIVALENT, mode="train")
pair(
    "branches in another order",
    lambda: (
        two_branches(lambda m, x: m.a(x) + m.b(x) + m.c(x)),
        two_branches(lambda m, x: m.c(x) + (m.b(x) + m.a(x))),
    ),
    EQUIVALENT,
)
pair("hidden channels permuted", lambda: (net(), permuted(net(), [2, 0, 3, 1])), EQUIVALENT)
pair("hidden channels permuted", lambda: (net(), permuted(net(), [2, 0, 3, 1])), EQUIVALENT, mode="train")
pair("norm by hand", hand_pair, EQUIVALENT)
pair("norm by hand", hand_pair, EQUIVALENT, mode="train")
pair("wider groups padded with zeros", padded_groups, EQUIVALENT)
pair(
    "block-diagonal kernel for groups",
    lambda: (conv(groups=2), dense_from_grouped(conv(groups=2))),
    EQUIVALENT,
)
pair(
    "convolution split by input channels",
    lambda: same(
        conv(),
        lambda m, x: m.c(x),
        lambda m, x: (
            F.conv2d(x[:, :1], m.c.weight[:, :1], m.c.bias, padding=1)
            + F.conv2d(x[:, 1:], m.c.weight[:, 1:], padding=1)
        ),
    ),
    EQUIVALENT,
)
pair(
    "a branch and its negative",
    lambda: same(conv(), lambda m, x: m.c(x) + F.relu(x) - F.relu(x), lambda m, x: m.c(x)),
    EQUIVALENT,
)
pair(
    "operations that do nothing",
    lambda: same(conv(), lambda m, x: nn.Identity()(m.c(x.flip(2).flip(2)).contiguous() * 1 + 0), lambda m, x: m.c(x)),
    EQUIVALENT,
)
pair("channels last", lambda: (net(), net().to(memory_format=torch.channels_last)), EQUIVALENT)
pair(
    "sum in another order",
    lambda: same(conv(), lambda m, x: m.c(x).sum((2, 3)), lambda m, x: m.c(x).flip(3).sum(2).sum(2)),
    EQUIVALENT,
)
pair(
    "circular padding by hand",
    lambda: same(
        conv(padding_mode="circular"),
        lambda m, x: m.c(x),
        lambda m, x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), m.c.weight, m.c.bias),
    ),
    EQUIVALENT,
)
pair(
    "pooling the other way round",
    lambda: same(conv(), lambda m, x: F.max_pool2d(m.c(x), 2), lambda m, x: F.max_pool2d(m.c(x).mT, 2).mT),
    EQUIVALENT,
)
pair("dilated kernel with outer taps 0", functools.partial(wide_tap, 0.0), EQUIVALENT)
pair("weights tied, named in another order", lambda: (tied("a", "b"), tied("b", "a")), EQUIVALENT, mode="train")
pair("unused head", lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x)), EQUIVALENT)
pair(
    "floats that overflow",
    lambda: same(conv(), lambda m, x: m.c(x) * 1e30 * 1e30, lambda m, x: 1e30 * (m.c(x) * 1e30)),
    EQUIVALENT,
)
pair(
    "norm without affine and statistics",
    lambda: same(
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        lambda m, x: m.c(x),
        lambda m, x: (
            (x - x.mean((0, 2, 3), keepdim=True))
            * torch.rsqrt((x - x.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3), keepdim=True) + m.c.eps)
        ),
    ),
    EQUIVALENT,
)
pair(
    "counting calls without consequence",
    lambda: (Program(lambda m, x: x + 0 * m.k, k=torch.zeros(1)), Calls(counts=False)),
    EQUIVALENT,
)

# --- another function ------------------------------------------------------------------------------------------

pair("reflected padding", lambda: (conv(), changed(conv(padding_mode="reflect"), lambda m: None)), DIFFERENT)


def stride_placed(first, second):
    return Program(
        lambda m, x: m.b(F.relu(m.a(x))), a=conv(kernel=1, stride=first), b=conv(kernel=3, seed=1, stride=second)
    )


pair("stride in the 1×1", lambda: (stride_placed(1, 2), stride_placed(2, 1)), DIFFERENT)
for eps in (1.01e-5, 1.00001e-5):
    pair(f"eps {eps}", lambda eps=eps: (net(), changed(net(), lambda m: setattr(m.norm, "eps", eps))), DIFFERENT)
pair("one bit of one weight", lambda: (net(), changed(net(), lambda m: one_bit(m.first.weight))), DIFFERENT)
pair("one bit of one bias", lambda: (net(), changed(net(), lambda m: one_bit(m.last.bias))), DIFFERENT)
pair("momentum", lambda: (norm(momentum=0.1), norm(momentum=0.11)), DIFFERENT, mode="train")
pair("biased variance kept", functools.partial(hand_pair, unbiased=False), DIFFERENT, mode="train")
pair(
    "counter, momentum None",
    lambda: (norm(momentum=None), changed(norm(momentum=None), lambda m: m.num_batches_tracked.add_(1))),
    DIFFERENT,
    mode="train",
)
pair(
    "gradient cut in one branch",
    lambda: (two_branches(lambda m, x: m.a(x) + m.b(x)), two_branches(lambda m, x: m.a(x) + m.b(x.detach()))),
    DIFFERENT,
)
pair(
    "gradient cut everywhere",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x.detach())),
    DIFFERENT,
)
pair(
    "parameter detached",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: F.conv2d(x, m.c.weight.detach(), m.c.bias, padding=1)),
    DIFFERENT,
    mode="train",
)
pair(
    "parameter frozen",
    lambda: (conv(), changed(conv(), lambda m: m.weight.requires_grad_(False))),
    DIFFERENT,
    mode="train",
)
pair("relu6", lambda: (of_activation(F.relu), of_activation(F.relu6)), DIFFERENT)
pair("leaky 1e-7", lambda: (of_activation(F.relu), of_activation(lambda x: F.leaky_relu(x, 1e-7))), DIFFERENT)
pair(
    "relu(x) >= 0 for relu(x) > 0",
    lambda: (
        of_activation(lambda x: (F.relu(x) > 0).to(x.dtype)),
        of_activation(lambda x: (F.relu(x) >= 0).to(x.dtype)),
    ),
    DIFFERENT,
)
pair(
    "only on odd sizes",
    lambda: same(conv(), lambda m, x: F.avg_pool2d(m.c(x), 2, ceil_mode=True), lambda m, x: F.avg_pool2d(m.c(x), 2)),
    DIFFERENT,
)
pair(
    "only on even sizes",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x) * (2 if x.shape[-1] % 2 == 0 else 1)),
    DIFFERENT,
    shape=(2, 4, 5, 5),
)
pair(
    "only beyond a threshold",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(torch.where(x.abs() > 100, 1.001 * x, x))),
    DIFFERENT,
)
pair(
    "only in a batch",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x) * (1 if len(x) == 1 else 2)),
    DIFFERENT,
    shape=(1, 4, 5, 5),
)
pair(
    "only in a batch, of one size",
    lambda: same(
        nn.Linear(36, 2),
        lambda m, x: m.c(x.flatten(1)),
        lambda m, x: m.c((x - (x - x.mean(0)) * 0.5 * (len(x) > 1)).flatten(1)),
    ),
    DIFFERENT,
    shape=(1, 4, 3, 3),
)
pair(
    "only for negative inputs",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(torch.where(x < 0, 1.0001 * x, x))),
    DIFFERENT,
)
pair(
    "two channels swapped",
    lambda: (net(), changed(net(), lambda m: m.first.weight.copy_(m.first.weight[[1, 0, 2, 3]]))),
    DIFFERENT,
)


def expand_sliced_on_axis_0():
    a, b = forms(Concatenated, Concatenated)
    return a, changed(b, lambda m: m.expand.weight.copy_(m.expand.weight.transpose(0, 1).contiguous()))


for groups, stage in itertools.product((1, 2, 8), ("reduce", "transform")):
    pair(f"{groups} groups in {stage}", functools.partial(regrouped, groups, stage), DIFFERENT, shape=None)
pair("expand sliced on axis 0", expand_sliced_on_axis_0, DIFFERENT, shape=None)
pair(
    "bias once for each branch",
    lambda: same(
        conv(),
        lambda m, x: m.c(x),
        lambda m, x: (
            F.conv2d(x[:, :2], m.c.weight[:, :2], m.c.bias, padding=1)
            + F.conv2d(x[:, 2:], m.c.weight[:, 2:], m.c.bias, padding=1)
        ),
    ),
    DIFFERENT,
)
pair(
    "running mean of another",
    lambda: (net(), changed(net(), lambda m: m.norm.running_mean.copy_(m.norm.running_mean.flip(0)))),
    DIFFERENT,
)
pair("output dtype", lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x).double()), DIFFERENT)
pair("output shape", lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x)[..., :-1]), DIFFERENT)
for scale in (1e15, 1e-15):
    pair(
        f"one bit at scale {scale}",
        lambda scale=scale: same(conv(), lambda m, x: m.c(x) * scale, lambda m, x: m.c(x) * scale * (1 + 2.0**-23)),
        DIFFERENT,
    )
pair(
    "input overwritten",
    lambda: same(conv(), lambda m, x: m.c(F.relu(x)) + x, lambda m, x: m.c(F.relu_(x)) + x),
    DIFFERENT,
)
pair("taps beyond the input", functools.partial(wide_tap, 1.0), DIFFERENT)
pair("weights tied or not", lambda: (tied("a", "b"), tied("a", "b", tie=False)), DIFFERENT, mode="train")
pair(
    "weights tied, or the second frozen",
    lambda: (tied("a", "b"), tied("a", "b", tie=False, train_second=False)),
    DIFFERENT,
    mode="train",
)
pair("counting calls", lambda: (Calls(counts=False), Calls(counts=True)), DIFFERENT)
pair(
    "cast to half and back",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x).half().to(x.dtype)),
    DIFFERENT,
)

# --- nothing to be said ----------------------------------------------------------------------------------------

pair("dropout in training", lambda: (nn.Dropout(0.5), nn.Dropout(0.5)), UNDECIDED, mode="train")
pair("noise", lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x) + torch.randn_like(x)), UNDECIDED)
pair(
    "operation without a rule",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: torch.fft.ifft(torch.fft.fft(m.c(x))).real),
    UNDECIDED,
)
pair(
    "NaN in a weight",
    lambda: (conv(), changed(conv(), lambda m: m.weight[0, 0, 0, 0].fill_(torch.nan))),
    UNDECIDED,
)


def silent_last_norm():
    a, b = forms(PerBranch, Grouped)
    return [changed(m, lambda m: m.norm.weight.zero_()) for m in (a, b)]


pair("last gamma is 0", silent_last_norm, UNDECIDED, shape=None)
pair("last gamma of a group norm is 0", silent_last_group_norm, UNDECIDED, shape=None)
pair(
    "course depends on a value, without consequence",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x) if x.max() < 1e30 else m.c(x) * 2),
    UNDECIDED,
)
pair(
    "only in a narrow window",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(torch.where((x - 77).abs() < 1e-9, 0.0, x))),
    UNDECIDED,
)
# True, but no identity of rings: not seen in the field, and never called different.
pair(
    "relu(2 x) for 2 relu(x)",
    lambda: same(conv(), lambda m, x: F.relu(2 * m.c(x)), lambda m, x: 2 * F.relu(m.c(x))),
    UNDECIDED,
)
# True but for rounding: torch's derivative of a variance multiplies by the float nearest to 2 / n.
pair(
    "variance by torch",
    lambda: same(
        conv(),
        lambda m, x: m.c(x).var(0, unbiased=False),
        lambda m, x: (m.c(x) - m.c(x).mean(0)).square().mean(0),
    ),
    UNDECIDED,
    shape=(3, 4, 5, 5),
)
# Where a bias of 0 meets dead channels, each spelling has its own derivative.
pair(
    "another convention at a kink",
    lambda: [
        Program(
            lambda m, x, f=f: m.c(f(m.b(F.relu(m.a(x))))),
            a=conv(outputs=1, kernel=1, bias=False),
            b=changed(conv(inputs=1, kernel=1), lambda m: m.bias.zero_()),
            c=conv(kernel=1, seed=2),
        )
        for f in (lambda t: F.relu(2 * t) / 2, lambda t: t.clamp(min=0))
    ],
    UNDECIDED,
    mode="train",
)
pair(
    "equal, but no number on one side",
    lambda: same(conv(), lambda m, x: m.c(x), lambda m, x: m.c(x) + 0 * torch.log(x)),
    UNDECIDED,
)


def hooked():
    module = conv()
    module.weight.register_hook(lambda gradient: 2 * gradient)
    return conv(), module


pair("a parameter with a hook", hooked, UNDECIDED, mode="train")


def test_the_table_has_at_least_forty_pairs_and_some_of_each_kind():
    expected = [p.values[1] for p in PAIRS]
    assert len(expected) >= 40
    assert min(expected.count(verdict) for verdict in Verdict) >= 5


@pytest.mark.parametrize(("make", "expected", "mode", "shape", "options"), PAIRS)
def test_the_verdict_is_the_known_answer(make, expected, mode, shape, options):
    left, right = make()
    report = check(left, right, input_shape=shape, mode=mode, **options)
    assert report.verdict is expected, report.reason


@pytest.mark.parametrize(
    ("make", "expected", "mode", "shape", "options"), [p for p in PAIRS if p.values[1] is not UNDECIDED][::7]
)
def test_the_verdict_does_not_depend_on_who_is_left(make, expected, mode, shape, options):
    left, right = make()
    assert check(right, left, input_shape=shape, mode=mode, **options).verdict is expected
