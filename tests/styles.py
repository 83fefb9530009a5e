"""One block written in the coding styles that are met in the wild; each holds the same function.

A style is a function from a spec to a module with random names, mode and weights. Where a style has
surroundings of its own (a pooled shortcut, a gate after the norm), its name says so.
"""

import random

import torch
from torch import nn
from torch.nn import functional

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
APPLY = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def norm(spec, channels, *, after=False):
    """The norm of hidden channels, of one branch or of all, or (`after`) of the output's."""
    if spec.norm == "none":
        return nn.Identity()
    if spec.norm == "group":
        groups = spec.output_norm_groups if after else channels // spec.width * spec.norm_groups
        return nn.GroupNorm(groups, channels, eps=spec.eps)
    return NORM[spec.spatial_dims](channels, eps=spec.eps, momentum=spec.momentum)


def convolutions(spec, groups=None, reduce_stride=1):
    """The three convolutions, grouped by default."""
    hidden = spec.hidden_channels
    conv = CONV[spec.spatial_dims]
    return (
        conv(spec.in_channels, hidden, 1, stride=reduce_stride, bias=spec.bias[0]),
        conv(
            hidden,
            hidden,
            spec.kernel_size,
            stride=spec.stride,
            padding=spec.padding,
            dilation=spec.dilation,
            groups=groups or spec.cardinality,
            bias=spec.bias[1],
        ),
        conv(hidden, spec.out_channels, 1, bias=spec.bias[2]),
    )


def projection(spec):
    if spec.shortcut != "projection":
        return None
    conv = CONV[spec.spatial_dims](spec.in_channels, spec.out_channels, 1, stride=spec.stride, bias=False)
    return nn.Sequential(conv, norm(spec, spec.out_channels, after=True))


class Shortcut(nn.Module):
    """Adds a shortcut and activates, in place or not."""

    def __init__(self, spec):
        super().__init__()
        self.kind, self.act = spec.shortcut, getattr(functional, spec.activation)
        self.down = projection(spec)

    def finish(self, x, y):
        if self.kind != "none":
            y = y + (x if self.down is None else self.down(x))
        return self.act(y)


class OneActivationModule(Shortcut):
    """As torchvision writes it: one activation module, used three times."""

    def __init__(self, spec):
        super().__init__(spec)
        self.a, self.c, self.b = convolutions(spec)
        self.n3, self.n1 = norm(spec, spec.out_channels, after=True), norm(spec, spec.hidden_channels)
        self.n2 = norm(spec, spec.hidden_channels)
        self.relu = nn.ReLU(inplace=True) if spec.activation == "relu" else Elementwise(spec.activation)
        self.act = self.relu

    def forward(self, x):
        y = self.relu(self.n1(self.a(x)))
        y = self.relu(self.n2(self.c(y)))
        return self.finish(x, self.n3(self.b(y)))


class Elementwise(nn.Module):
    """A function of torch.nn.functional as a module."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return getattr(functional, self.name)(x)


class ConvBlock(nn.Module):
    """Convolution, norm and activation nested in a wrapper, as pytorchcv writes it."""

    def __init__(self, conv, norm, activation):
        super().__init__()
        self.conv, self.bn = conv, norm
        self.activ = Elementwise(activation) if activation else None

    def forward(self, x):
        x = self.bn(self.conv(x))
        return x if self.activ is None else self.activ(x)


class NestedWrappers(Shortcut):
    """Wrappers inside a body, shortcut and activation outside."""

    def __init__(self, spec):
        super().__init__(spec)
        convs, hidden = convolutions(spec), spec.hidden_channels
        names = (spec.activation, spec.activation, None)
        widths = (hidden, hidden, spec.out_channels)
        self.body = nn.Module()
        for i, (conv, width, name) in enumerate(zip(convs, widths, names, strict=True)):
            self.body.add_module(f"conv{i + 1}", ConvBlock(conv, norm(spec, width, after=i == 2), name))

    def forward(self, x):
        return self.finish(x, self.body.conv3(self.body.conv2(self.body.conv1(x))))


class NormInsideConvolution(nn.Conv2d):
    """A convolution that holds its norm and activation, as detectron2 writes it."""

    def __init__(self, conv, norm, activation):
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            conv.dilation, conv.groups, conv.bias is not None,
        )  # fmt: skip
        self.norm, self.activation = norm, activation

    def forward(self, x):
        x = functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        x = self.norm(x)
        return x if self.activation is None else self.activation(x)


class NormsInsideConvolutions(Shortcut):
    """Three convolutions that hold the rest."""

    def __init__(self, spec):
        super().__init__(spec)
        widths = (spec.hidden_channels, spec.hidden_channels, spec.out_channels)
        acts = (getattr(functional, spec.activation),) * 2 + (None,)
        parts = zip(convolutions(spec), widths, acts, strict=True)
        self.one, self.two, self.three = (
            NormInsideConvolution(c, norm(spec, w, after=a is None), a) for c, w, a in parts
        )

    def forward(self, x):
        return self.finish(x, self.three(self.two(self.one(x))))


class NormAndActivation(nn.Module):
    """Norm and activation in one module, as timm writes it."""

    def __init__(self, norm, activation):
        super().__init__()
        for name, tensor in norm.named_parameters():
            self.register_parameter(name, tensor)
        for name, tensor in norm.named_buffers():
            self.register_buffer(name, tensor)
        self.eps, self.momentum, self.activation = norm.eps, getattr(norm, "momentum", None), activation
        self.groups = getattr(norm, "num_groups", None)

    def forward(self, x):
        x = self.grouped(x) if self.groups else self.batched(x)
        return x if self.activation is None else self.activation(x)

    def grouped(self, x):
        return functional.group_norm(x, self.groups, self.weight, self.bias, self.eps)

    def batched(self, x):
        factor = self.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            factor = 1 / float(self.num_batches_tracked) if factor is None else factor
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, factor or 0.0, self.eps
        )


class FusedNorms(Shortcut):
    """Three convolutions, three norms with activations."""

    def __init__(self, spec):
        super().__init__(spec)
        self.c1, self.c2, self.c3 = convolutions(spec)
        act = getattr(functional, spec.activation)
        self.b1 = NormAndActivation(norm(spec, spec.hidden_channels), act)
        self.b2 = NormAndActivation(norm(spec, spec.hidden_channels), act)
        self.b3 = NormAndActivation(norm(spec, spec.out_channels, after=True), None)

    def forward(self, x):
        return self.finish(x, self.b3(self.c3(self.b2(self.c2(self.b1(self.c1(x)))))))


class NestedSequentials(nn.Module):
    """Sequentials of Sequentials and lambdas, as in Cadene's ports."""

    def __init__(self, spec):
        super().__init__()
        r, t, e = convolutions(spec)
        hidden = spec.hidden_channels
        inner = nn.Sequential(r, norm(spec, hidden), Elementwise(spec.activation), t, norm(spec, hidden))
        body = nn.Sequential(inner, Elementwise(spec.activation))
        self.branch = nn.Sequential(body, e, norm(spec, spec.out_channels, after=True))
        self.down = projection(spec) or nn.Identity()
        self.join = lambda x, *ways: [way(x) for way in ways[: 1 if spec.shortcut == "none" else 2]]
        self.last = Elementwise(spec.activation)

    def forward(self, x):
        first, *others = self.join(x, self.branch, self.down)
        for other in others:
            first = torch.add(first, other)
        return self.last(first)


class Functional(nn.Module):
    """Nothing but parameters, buffers and functions."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        names = iter(random.Random(spec.width).sample(range(100), 30))
        self.held = {}
        convs = [*convolutions(spec), *([projection(spec)[0]] if spec.shortcut == "projection" else [])]
        widths = [spec.hidden_channels, spec.hidden_channels, spec.out_channels, spec.out_channels]
        for i, (conv, width) in enumerate(zip(convs, widths, strict=False)):
            normed = norm(spec, width, after=i > 1)
            held = [(f"c{key}", tensor) for key, tensor in conv.named_parameters()]
            held += [(f"n{key}", tensor) for key, tensor in [*normed.named_parameters(), *normed.named_buffers()]]
            for key, tensor in held:
                self.keep(i, key, f"p{next(names)}", tensor)

    def keep(self, i, key, name, tensor):
        (self.register_parameter if isinstance(tensor, nn.Parameter) else self.register_buffer)(name, tensor)
        self.held[i, key] = name

    def get(self, i, key):
        name = self.held.get((i, key))
        return None if name is None else getattr(self, name)

    def conv(self, i, x, **geometry):
        return APPLY[self.spec.spatial_dims](x, self.get(i, "cweight"), self.get(i, "cbias"), **geometry)

    def norm(self, i, x):
        if self.spec.norm == "none":
            return x
        if self.spec.norm == "group":
            groups = self.spec.output_norm_groups if i > 1 else self.spec.cardinality * self.spec.norm_groups
            return functional.group_norm(x, groups, self.get(i, "nweight"), self.get(i, "nbias"), self.spec.eps)
        factor, counter = self.spec.momentum, self.get(i, "nnum_batches_tracked")
        if self.training:
            counter.add_(1)
            factor = 1 / float(counter) if factor is None else factor
        statistics = (self.get(i, "nrunning_mean"), self.get(i, "nrunning_var"))
        affine = (self.get(i, "nweight"), self.get(i, "nbias"))
        return functional.batch_norm(x, *statistics, *affine, self.training, factor or 0.0, self.spec.eps)

    def forward(self, x):
        spec, act = self.spec, getattr(functional, self.spec.activation)
        y = act(self.norm(0, self.conv(0, x)))
        geometry = {"stride": spec.stride, "padding": spec.padding, "dilation": spec.dilation}
        y = act(self.norm(1, self.conv(1, y, groups=spec.cardinality, **geometry)))
        y = self.norm(2, self.conv(2, y))
        if spec.shortcut == "identity":
            y += x
        elif spec.shortcut == "projection":
            y = self.norm(3, self.conv(3, x, stride=spec.stride)) + y
        return act(y)


class SomeoneElsesBranches(Shortcut):
    """Branches in a list, summed or concatenated before one expand."""

    def __init__(self, spec, *, concatenated=False, stacked=False):
        super().__init__(spec)
        conv, d, act = CONV[spec.spatial_dims], spec.width, spec.activation
        geometry = {"stride": spec.stride, "padding": spec.padding, "dilation": spec.dilation}
        self.paths = nn.ModuleList()
        for _ in range(spec.cardinality):
            steps = [
                conv(spec.in_channels, d, 1, bias=spec.bias[0]), norm(spec, d), Elementwise(act),
                conv(d, d, spec.kernel_size, bias=spec.bias[1], **geometry), norm(spec, d), Elementwise(act),
            ]  # fmt: skip
            if not concatenated:
                steps.append(conv(d, spec.out_channels, 1, bias=False))
            self.paths.append(nn.Sequential(*steps))
        self.stacked = stacked
        self.out = conv(d * spec.cardinality, spec.out_channels, 1, bias=spec.bias[2]) if concatenated else None
        self.offset = nn.Parameter(torch.randn(spec.out_channels)) if spec.bias[2] and not concatenated else None
        self.last = norm(spec, spec.out_channels, after=True)

    def forward(self, x):
        parts = [path(x) for path in self.paths]
        if self.out is not None:
            y = self.out(torch.cat(parts, 1))
        else:
            y = torch.stack(parts).sum(0) if self.stacked else sum(parts)
        if self.offset is not None:
            y = y + self.offset[(..., *[None] * (x.dim() - 2))]
        return self.finish(x, self.last(y))


class GroupedBySlices(OneActivationModule):
    """One reduce, a list of transforms on slices of it."""

    def __init__(self, spec):
        super().__init__(spec)
        conv, d = CONV[spec.spatial_dims], spec.width
        geometry = {"stride": spec.stride, "padding": spec.padding, "dilation": spec.dilation}
        self.c = nn.ModuleList(
            conv(d, d, spec.kernel_size, bias=spec.bias[1], **geometry) for _ in range(spec.cardinality)
        )
        self.width = d

    def forward(self, x):
        y = self.relu(self.n1(self.a(x)))
        parts = [c(y[:, i * self.width : (i + 1) * self.width]) for i, c in enumerate(self.c)]
        y = self.relu(self.n2(torch.cat(parts, dim=1)))
        return self.finish(x, self.n3(self.b(y)))


def someone_s_concatenation(spec):
    return SomeoneElsesBranches(spec, concatenated=True)


def someone_s_stack(spec):
    return SomeoneElsesBranches(spec, stacked=True)


MODULAR = [OneActivationModule, NestedWrappers, NestedSequentials, GroupedBySlices]
BRANCHED = [SomeoneElsesBranches, someone_s_concatenation, someone_s_stack]
STYLES = [*MODULAR, *BRANCHED, Functional]
# These can only be written with norms, the latter in two dimensions.
ONLY_NORMED = [FusedNorms]
ONLY_NORMED_IMAGES = [NormsInsideConvolutions]


class Surrounded(OneActivationModule):
    """A pooled shortcut, a gate after the norm and a drop path, none of which looks at branches."""

    def __init__(self, spec):
        super().__init__(spec)
        width = max(1, spec.out_channels // 2)
        self.squeeze, self.excite = nn.Conv2d(spec.out_channels, width, 1), nn.Conv2d(width, spec.out_channels, 1)
        self.pool = nn.AvgPool2d(spec.stride, ceil_mode=True)
        self.project = nn.Conv2d(spec.in_channels, spec.out_channels, 1, bias=False)
        self.drop = 0.3

    def forward(self, x):
        y = self.relu(self.n1(self.a(x)))
        y = self.n3(self.b(self.relu(self.n2(self.c(y)))))
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = y * gate
        if self.training:
            keep = torch.rand(y.shape[0], 1, 1, 1, dtype=y.dtype) > self.drop
            y = y * keep / (1 - self.drop)
        return functional.relu(y + self.project(self.pool(x)))


class ZeroPaddedShortcut(OneActivationModule):
    """Channels that the input lacks are zeros."""

    def forward(self, x):
        y = self.relu(self.n1(self.a(x)))
        y = self.n3(self.b(self.relu(self.n2(self.c(y)))))
        x = x[:, :, :: self.c.stride[0], :: self.c.stride[0]]
        x = functional.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        return functional.relu(x + y)


class StrideInTheReduce(OneActivationModule):
    """The caffe style of ResNet: the 1×1 has the stride."""

    def __init__(self, spec, stride=2):
        super().__init__(spec)
        self.a, self.c, self.b = convolutions(spec, reduce_stride=stride)
        self.down = CONV[spec.spatial_dims](spec.in_channels, spec.out_channels, 1, stride=stride, bias=False)
        self.kind = "projection"
