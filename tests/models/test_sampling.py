"""Networks drawn at random: encoder, skips, up-sampler, size, batch and memory layout, in eval and in training."""

import copy
import pickle
import random

import pytest
import torch
from torch import nn

from normalkit import AngularLoss, BilinearNormals, SMPNormals, UNetNormals
from normalkit.models.smp import ARCHITECTURES
from normalkit.uncertainty import estimate

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("test_resnet", "test_efficientnet", "test_convnext", "regnetx_002", "mobilenetv3_small_050")
FAMILIES = (
    *SMALL,
    "resnet18",
    "tf_efficientnet_lite0",
    "mobilenetv2_035",
    "vgg11",
    "densenet121",
    "swin_tiny_patch4_window7_224",
    "dla34",
)
LEVELS = {"test_convnext": (2, 3, 4), "swin_tiny_patch4_window7_224": (2, 3, 4)}
UPSAMPLERS = ("transpose", "bilinear", "nearest")
LARGEST = 300


def draw_unet(draw, encoder):
    levels = LEVELS.get(encoder, (1, 2, 3, 4))
    return UNetNormals(
        encoder,
        pretrained=False,
        skips=draw.sample(levels, draw.randint(0, len(levels))),
        upsample=draw.choice(UPSAMPLERS),
        decoder_channels=[draw.choice((4, 6, 8)) for _ in range(5)],
        resolution=draw.choice((None, None, None, 48)),
    )


def draw_images(draw):
    """A batch of one or two, of any size, and the same numbers laid out in another way."""
    batch, height, width = draw.choice((1, 1, 2)), draw.randint(1, LARGEST), draw.randint(1, LARGEST)
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(draw.randrange(2**31)))
    kind = draw.choice(("channels_last", "sliced", "turned"))
    if kind == "channels_last":
        return images, images.contiguous(memory_format=torch.channels_last)
    if kind == "sliced":
        return images, torch.stack([images, images], -1)[..., 0]
    return images, images.transpose(2, 3).contiguous().transpose(2, 3)


def check_eval(model, images, laid_out):
    model.eval()
    with torch.no_grad():
        normals, others = model(images), model(laid_out)
    assert normals.shape == images.shape
    assert normals.dtype == torch.float32
    # The raw map is the same to its rounding; of a short vector the direction is less so.
    raw, other = (model(x, normalize=False).detach() for x in (images, laid_out))
    torch.testing.assert_close(normals.norm(dim=1), torch.ones_like(normals[:, 0]))
    assert float((raw - other).abs().max()) <= 1e-4 * float(raw.abs().max())
    assert others.shape == normals.shape
    model.concentration = 2.0
    with torch.no_grad():
        again, error = estimate(model, images)
    assert torch.equal(again, normals)
    assert ((error >= 0) & (error <= 90)).all()


def check_training(model, images):
    """It trains, or says that batch norm cannot: that may be with one image alone, padded to a single deepest pixel."""
    model.train()
    target = nn.functional.normalize(torch.randn_like(images), dim=1)
    try:
        AngularLoss()(model(images), target).backward()
    except ValueError as error:
        if len(images) > 1 or "use two or more images" not in str(error):
            raise
        return False
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    return True


def check_copies(model, images):
    model.eval()
    again = copy.deepcopy(model)
    again.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    again.load_state_dict(model.state_dict())
    for twin in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert torch.equal(twin(images), model(images))
    # No weight, so that copies alone have it.
    assert copy.deepcopy(model).concentration == pickle.loads(pickle.dumps(model)).concentration == 2.0


def check(model, draw):
    # Where each of the few channels of an untrained network is dead there would be no direction.
    last = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.out_channels == 3][-1]
    nn.init.uniform_(last.bias, 0.1, 0.2)
    images, laid_out = draw_images(draw)
    check_eval(model, images, laid_out)
    trained = check_training(model, laid_out)
    sides = [model.resolution or side for side in images.shape[2:]]
    # Where more than one pixel is left, batch norm always can; SMPNormals may pool them to one.
    assert trained or max(sides) <= model.stride or isinstance(model, SMPNormals)
    check_copies(model, images[..., :40, :40])


@pytest.mark.parametrize("number", range(10))
def test_a_network_drawn_at_random(number):
    torch.manual_seed(number)
    draw = random.Random(number)
    check(draw_unet(draw, SMALL[number % len(SMALL)]), draw)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("encoder", FAMILIES)
def test_networks_of_every_family(encoder, number):
    torch.manual_seed(number)
    draw = random.Random(f"{encoder} {number}")
    if number < 4:
        model = draw_unet(draw, encoder)
    else:
        model = BilinearNormals(encoder, pretrained=False, channels=(8, 4), resolution=draw.choice((None, 64)))
    check(model, draw)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architectures_of_the_other_library(arch, number):
    torch.manual_seed(number)
    encoder = "tu-test_vit" if arch == "DPT" else f"tu-{random.Random(number).choice(SMALL[:2])}"
    check(SMPNormals(arch, encoder, pretrained=False), random.Random(f"{arch} {number}"))


@pytest.mark.slow
@pytest.mark.parametrize("encoder", FAMILIES)
def test_every_family_exports(encoder):
    model = UNetNormals(encoder, pretrained=False, decoder_channels=(8, 8, 8, 4, 4)).eval()
    images = torch.rand(1, 3, 50, 70)
    program = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("upsample", "training"), [("transpose", True), ("bilinear", False), ("nearest", False)])
def test_every_upsampler_compiles(upsample, training):
    model = UNetNormals("test_resnet", pretrained=False, decoder_channels=(8, 8, 8, 4, 4), upsample=upsample)
    model.train(training)
    twin = copy.deepcopy(model)
    images = torch.rand(2, 3, 50, 70)
    found = torch.compile(twin, fullgraph=True)(images)
    expected = model(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    if training:
        for network, normals in ((twin, found), (model, expected)):
            normals[:, 2].mean().backward()
            assert all(parameter.grad is not None for parameter in network.parameters())
        torch.testing.assert_close(twin.head.weight.grad, model.head.weight.grad, rtol=1e-2, atol=1e-4)
