"""Folded towers give the numbers of the towers they come from."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from psp_ray.features.fuse import fuse_conv_bn  # noqa: E402


def with_statistics(tower: nn.Module) -> nn.Module:
    """A frozen tower whose batch norms have done something, unlike freshly made ones."""
    generator = torch.Generator().manual_seed(1)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return tower.eval().requires_grad_(False)


def norms(tower: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in tower.modules())


def outputs(tower: nn.Module, size: int):
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return tower(images)


def test_efficientnet_lite_of_timm():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    tower = with_statistics(timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0))
    before = outputs(tower, 64)
    fused = fuse_conv_bn(tower, (64, 64))
    assert norms(tower) > 0
    assert norms(fused) == 0
    after = outputs(fused, 64)
    assert (after - before).abs().max() <= 1e-4 * before.square().mean().sqrt()
    torch.testing.assert_close(outputs(tower, 64), before, rtol=0, atol=0)  # the original is untouched


def test_resnet_of_open_clip():
    from open_clip.modified_resnet import ModifiedResNet

    torch.manual_seed(0)
    tower = with_statistics(ModifiedResNet(layers=[1, 1, 1, 1], output_dim=16, heads=4, image_size=32, width=16))
    before = outputs(tower, 32)
    fused = fuse_conv_bn(tower, (32, 32))
    assert norms(fused) == 0
    torch.testing.assert_close(outputs(fused, 32), before, rtol=1e-4, atol=1e-4)


class Misleading(nn.Module):
    """The norm is defined behind the convolution but runs before it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(x)).mean(dim=(2, 3))


def test_a_tower_that_would_change_is_left_alone():
    torch.manual_seed(0)
    tower = with_statistics(Misleading())
    before = outputs(tower, 8)
    same = fuse_conv_bn(tower, (8, 8))
    assert norms(same) == 1
    torch.testing.assert_close(outputs(same, 8), before)


def test_a_tower_without_batch_norm_comes_back():
    tower = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    before = outputs(tower, 8)
    assert fuse_conv_bn(tower, (8, 8)) is tower
    torch.testing.assert_close(outputs(tower, 8), before)
