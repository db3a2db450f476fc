"""FewStepScheduler is the student's own sampler, in a loop and in diffusers' own pipelines."""

import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    ControlNetModel,
    DDIMScheduler,
    LCMScheduler,
    MotionAdapter,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    TCDScheduler,
)
from PIL import Image

from fewstep.diffusion.prediction import output_reader
from fewstep.diffusion.random import Draw
from fewstep.errors import UserError
from fewstep.methods import METHODS
from fewstep.student.contract import Contract
from fewstep.student.other_programs import is_exact_in_diffusers, pipeline_call, scheduler_config
from fewstep.student.pipeline import FewStepPipeline
from fewstep.student.samplers import SAMPLERS, last
from fewstep.student.scheduler import FewStepScheduler
from fewstep.student.seeds import image_generators
from tests.artefacts import tiny_artefact, tiny_contract
from tests.tiny import tiny_pipeline

GRIDS = [
    ("multi-boundary-cd", {"num_segments": m, "num_solver_steps": n})
    for m, n in ((1, 40), (2, 40), (3, 39), (4, 40), (4, 52), (6, 48), (7, 70), (8, 40))
]
ONE_SEGMENT = [("cd", {"num_solver_steps": n}) for n in (30, 40, 50, 64)] + [
    ("ct", {"num_solver_steps": 10, "final_solver_steps": 80})
]
QUADRATIC = [
    (name, {"num_solver_steps": 16, "spacing": "quadratic"}) for name in ("multi-boundary-cd", "cd")
]
PROMPTS = ["a red heart", "two stars"]
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def noise_of(number=2, seed=3):
    draw = Draw(image_generators(seed, number))
    return draw.noise_like(torch.empty(number, 4, 8, 8)), list(draw.generators)


def sampled(scheduler, network, num_steps=None, timesteps=None):
    """Return what a loop as in diffusers' pipelines makes with a network of (x_t, t)."""
    x_t, generators = noise_of()
    how_many = {"num_inference_steps": num_steps} if timesteps is None else {"timesteps": timesteps}
    scheduler.set_timesteps(**how_many)
    x_t = x_t * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x_t, t), t.long().expand(len(x_t)))
        options = {"generator": generators} if not isinstance(scheduler, DDIMScheduler) else {}
        x_t = scheduler.step(output, t, x_t, **options, return_dict=False)[0]
    return x_t


def exact(contract, network, num_steps):
    """Return what the project's own sampler makes."""
    schedule = contract.schedule
    read = output_reader(contract.prediction_type, schedule)
    draw = Draw(image_generators(3, 2))
    noise = draw.noise_like(torch.empty(2, 4, 8, 8))

    def denoise(x_t, t, cond):
        return read(network(x_t, t), x_t, t, schedule)

    timesteps = contract.timesteps(num_steps)
    return last(SAMPLERS[contract.sampler](denoise, noise, timesteps, {}, schedule, draw))


def every_number(contract):
    return [n for n in contract.sampling_timesteps if n <= 40]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("name", "settings"), GRIDS + ONE_SEGMENT + QUADRATIC, ids=str)
def test_it_is_the_students_sampler_for_every_grid(config, network, name, settings, prediction):
    config = config | {"prediction_type": prediction}
    contract = Contract.of(name, METHODS[name](**settings), 1.0, config)
    scheduler = FewStepScheduler.from_contract(contract)
    for num_steps in every_number(contract):
        mine = sampled(scheduler, network, num_steps)
        theirs = exact(contract, network, num_steps)
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("name", "settings"), GRIDS + ONE_SEGMENT + QUADRATIC, ids=str)
def test_what_is_claimed_of_the_stock_scheduler_is_true(
    config, network, name, settings, prediction
):
    config = config | {"prediction_type": prediction}
    contract = Contract.of(name, METHODS[name](**settings), 1.0, config)
    made = scheduler_config(contract)
    stock = getattr(diffusers, made["_class_name"]).from_config(made)
    for num_steps in every_number(contract):
        call = pipeline_call(contract, num_steps)
        theirs = sampled(stock, network, call.get("num_inference_steps"), call.get("timesteps"))
        difference = theirs - exact(contract, network, num_steps)
        agrees = difference.abs().max() < 1e-3
        exactly = is_exact_in_diffusers(contract, num_steps)
        assert agrees == exactly or (agrees and prediction != "epsilon"), (num_steps, difference)


@pytest.mark.parametrize("starts", [[999, 749, 499, 249], [999, 666, 332]])
def test_tcd_at_given_timesteps_agrees_up_to_its_last_step(config, network, starts):
    steps = {4: 40, 3: 39}[len(starts)]
    method = METHODS["multi-boundary-cd"](num_segments=len(starts), num_solver_steps=steps)
    scheduler = FewStepScheduler.from_contract(
        Contract.of("multi-boundary-cd", method, 1.0, config)
    )
    tcd = TCDScheduler.from_config(config)
    tcd.set_timesteps(timesteps=starts)
    scheduler.set_timesteps(len(starts))
    (mine, _), (theirs, _) = noise_of(), noise_of()
    for i, t in enumerate(starts):
        whole = torch.full((2,), t)
        mine = scheduler.step(network(mine, whole), t, mine).prev_sample
        theirs = tcd.step(network(theirs, whole), t, theirs, eta=0.0).prev_sample
        if i < len(starts) - 1:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
    assert (mine - theirs).abs().max() > 1e-3, "TCD lands on timestep 0, not on clean data"


@pytest.mark.parametrize(
    "wrong",
    [
        DDIMScheduler(timestep_spacing="leading", set_alpha_to_one=True, clip_sample=False),
        DDIMScheduler(timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False),
        LCMScheduler(original_inference_steps=40),
    ],
)
def test_the_wrong_stock_schedulers_are_seen_to_be_wrong(config, network, wrong):
    contract = Contract.of("multi-boundary-cd", METHODS["multi-boundary-cd"](), 1.0, config)
    wrong = type(wrong).from_config(dict(wrong.config) | config)
    assert (sampled(wrong, network, 4) - exact(contract, network, 4)).abs().max() > 0.01


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
@pytest.mark.parametrize("method", ["multi-boundary-cd", "cd"])
def test_pipelines_find_nothing_wrong_with_the_stock_scheduler(method, spacing):
    made = scheduler_config(tiny_contract(method, spacing=spacing))
    stock = getattr(diffusers, made["_class_name"]).from_config(made)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        StableDiffusionPipeline.from_pretrained(tiny_pipeline(), scheduler=stock)


def test_it_survives_its_file(config, network, tmp_path):
    contract = Contract.of("cd", METHODS["cd"](), 1.0, config)
    scheduler = FewStepScheduler.from_contract(contract)
    scheduler.save_pretrained(tmp_path)
    again = FewStepScheduler.from_pretrained(tmp_path)
    assert torch.equal(sampled(scheduler, network, 5), sampled(again, network, 5))


def test_another_schedulers_config_and_unknown_steps_are_refused(config):
    with pytest.raises(UserError, match=r"from an artefact's contract.*from_artefact"):
        FewStepScheduler.from_config(DDIMScheduler().config)
    contract = Contract.of("multi-boundary-cd", METHODS["multi-boundary-cd"](), 1.0, config)
    scheduler = FewStepScheduler.from_contract(contract)
    with pytest.raises(UserError, match="num_inference_steps is 8; this student is sampled in 4"):
        scheduler.set_timesteps(8)
    with pytest.raises(
        UserError, match=r"is sampled at timesteps .*999, 749, 499, 249.*not at 500"
    ):
        scheduler.step(torch.zeros(1, 4, 8, 8), 500, torch.zeros(1, 4, 8, 8))


def test_a_step_after_the_last_is_refused(config, network):
    contract = Contract.of("multi-boundary-cd", METHODS["multi-boundary-cd"](), 1.0, config)
    scheduler = FewStepScheduler.from_contract(contract)
    x_t = sampled(scheduler, network, 4)
    with pytest.raises(UserError, match="all 4 steps are done; call set_timesteps again"):
        scheduler.step(x_t, 249, x_t)


def test_the_guidance_that_diffusers_adds_by_default_is_refused(tmp_path):
    pipe = in_diffusers(StableDiffusionPipeline, tiny_artefact(tmp_path))
    with pytest.raises(UserError, match=r"takes no guidance_scale.*guidance_scale=1"):
        pipe(PROMPTS, num_inference_steps=4, height=64, width=64)
    pipe(PROMPTS, num_inference_steps=4, height=64, width=64, guidance_scale=1, output_type="np")


STUDENTS = [
    ("multi-boundary-cd", {}, 4),
    ("multi-boundary-cd", {"num_segments": 3, "num_solver_steps": 39}, 3),
    ("cd", {}, 4),
    ("ct", {"num_solver_steps": 30}, 3),
]


@pytest.fixture(scope="module", params=STUDENTS, ids=str)
def student(request, tmp_path_factory):
    method, settings, num_steps = request.param
    folder = tiny_artefact(tmp_path_factory.mktemp("student"), method, **settings)
    return folder, FewStepPipeline.from_pretrained(folder), num_steps


def in_diffusers(kind, folder, **parts):
    pipe = kind.from_pretrained(tiny_pipeline(), **parts)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(folder)
    pipe.scheduler = FewStepScheduler.from_artefact(folder)
    return pipe


def assert_same(images, theirs):
    mine = np.stack([np.asarray(image.image) for image in images]) / 255
    assert np.abs(mine - theirs).max() <= 2 / 255
    assert mine.std() > 0.01, "an image of one colour shows nothing"


def test_diffusers_generates_the_students_image(student):
    folder, pipeline, num_steps = student
    noise, generators = noise_of()
    theirs = in_diffusers(StableDiffusionPipeline, folder)(
        PROMPTS, num_inference_steps=num_steps, guidance_scale=1, latents=noise,
        generator=generators, height=64, width=64, output_type="np",
    ).images  # fmt: skip
    assert_same(pipeline(PROMPTS, seed=3, num_inference_steps=num_steps), theirs)


@pytest.mark.parametrize("method", ["multi-boundary-cd", "cd"])
def test_a_stock_pipeline_that_is_given_the_timesteps_generates_the_students_image(
    tmp_path, method
):
    folder = tiny_artefact(tmp_path, method, num_solver_steps=16, spacing="quadratic")
    pipe = in_diffusers(StableDiffusionPipeline, folder)
    assert not (folder / "scheduler").exists(), "a stock scheduler would start elsewhere"
    made = scheduler_config(tiny_contract(method, num_solver_steps=16, spacing="quadratic"))
    pipe.scheduler = getattr(diffusers, made["_class_name"]).from_config(made)
    noise, generators = noise_of()
    theirs = pipe(
        PROMPTS, timesteps=[999, 561, 249, 61], guidance_scale=1, latents=noise,
        generator=generators, height=64, width=64, output_type="np",
    ).images  # fmt: skip
    assert_same(
        FewStepPipeline.from_pretrained(folder)(PROMPTS, seed=3, num_inference_steps=4), theirs
    )


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_diffusers_generates_from_an_image_as_the_pipeline_does(student, strength):
    folder, pipeline, num_steps = student
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    image = Image.fromarray(pixels).resize((64, 64))
    strength = max(strength, 0.7) if num_steps == 3 else strength
    generators = list(Draw(image_generators(3, 2)).generators)
    latents = pipeline.encode(image, 64, 64).expand(2, -1, -1, -1)
    theirs = in_diffusers(StableDiffusionImg2ImgPipeline, folder)(
        PROMPTS, image=latents, strength=strength, num_inference_steps=num_steps,
        guidance_scale=1, generator=generators, output_type="np",
    ).images  # fmt: skip
    images = pipeline(
        PROMPTS, seed=3, num_inference_steps=num_steps, image=image, strength=strength
    )
    assert images[0].nfe == int(num_steps * strength)
    assert_same(images, theirs)


def test_diffusers_generates_with_a_control_net(student):
    folder, pipeline, num_steps = student
    pipe = in_diffusers(StableDiffusionControlNetPipeline, folder, controlnet=control_net())
    noise, generators = noise_of()
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    theirs = pipe(
        PROMPTS, image=hint, num_inference_steps=num_steps, guidance_scale=1, latents=noise,
        generator=generators, height=64, width=64, output_type="np",
    ).images  # fmt: skip
    family, network = pipeline.student
    cond = family.encode_prompts(PROMPTS)

    def denoise(x_t, t, cond):
        down, middle = pipe.controlnet(x_t, t, cond["text"], hint.expand(2, -1, -1, -1),
                                       return_dict=False)  # fmt: skip
        output = network(x_t, t, cond["text"], down_block_additional_residuals=down,
                         mid_block_additional_residual=middle, return_dict=False)[0]  # fmt: skip
        return family.read(output, x_t, t, family.schedule)

    draw, sample = (
        Draw(image_generators(3, 2)),
        SAMPLERS[pipeline.contract.sampler],
    )
    starts = pipeline.contract.timesteps(num_steps)
    with torch.no_grad():
        latents = last(sample(denoise, draw.noise_like(noise), starts, cond, family.schedule, draw))
    mine = family.decode(latents).permute(0, 2, 3, 1).numpy()
    assert np.abs(mine - theirs).max() <= 2 / 255
    images = pipeline(PROMPTS, seed=3, num_inference_steps=num_steps)
    plain = np.stack([np.asarray(image.image) for image in images]) / 255
    assert np.abs(plain - theirs).max() > 5 / 255, "the control net changes nothing"


def control_net():
    """Return a control net of the tiny pipeline's shape that says something."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = ControlNetModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
            conditioning_embedding_out_channels=(8, 8, 8, 8),
        )
        for block in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
            torch.nn.init.normal_(block.weight, std=0.6)
    return net.eval()


def test_diffusers_inpaints_with_the_students_image_and_keeps_the_rest(student):
    folder, pipeline, num_steps = student
    pipe = in_diffusers(StableDiffusionInpaintPipeline, folder)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)

    def inpainted(columns, output_type):
        mask = np.repeat(np.arange(64)[None] < columns, 64, 0).astype(np.uint8) * 255
        noise, generators = noise_of()
        return pipe(
            PROMPTS, image=[Image.fromarray(pixels)] * 2, mask_image=[Image.fromarray(mask)] * 2,
            strength=1.0, num_inference_steps=num_steps, guidance_scale=1, latents=noise,
            generator=generators, height=64, width=64, output_type=output_type,
        ).images  # fmt: skip

    left, nothing = inpainted(32, "latent"), inpainted(0, "latent")
    assert torch.equal(left[..., 4:], nothing[..., 4:]), "the right half is kept"
    assert not torch.isclose(left[..., :4], nothing[..., :4]).any()
    if pipeline.contract.sampler == "deterministic":  # fresh noise comes after that of the VAE
        images = pipeline(PROMPTS, seed=3, num_inference_steps=num_steps)
        assert_same(images, inpainted(64, "np"))


def test_diffusers_animates_the_students_images(tmp_path):
    """Motion modules that say nothing leave each frame what the student makes of its noise."""
    folder = tiny_artefact(tmp_path, "multi-boundary-cd")
    motion = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=4,
        motion_mid_block_layers_per_block=1, motion_num_attention_heads=2,
    )  # fmt: skip
    for name, weight in motion.named_parameters():
        if "proj_out" in name:
            torch.nn.init.zeros_(weight)
    stock = StableDiffusionPipeline.from_pretrained(tiny_pipeline()).components
    parts = {name: stock[name] for name in ("vae", "text_encoder", "tokenizer", "unet")}
    scheduler = FewStepScheduler.from_artefact(folder)
    pipe = AnimateDiffPipeline(**parts, motion_adapter=motion, scheduler=scheduler)
    pipe.load_lora_weights(folder)  # after the UNet has become one with motion
    pipe.set_progress_bar_config(disable=True)
    noise, _ = noise_of()
    frames = pipe(
        PROMPTS[0], num_frames=2, num_inference_steps=4, guidance_scale=1,
        latents=noise.transpose(0, 1)[None], height=64, width=64, output_type="np",
    ).frames  # fmt: skip
    images = FewStepPipeline.from_pretrained(folder)(
        [PROMPTS[0]] * 2, seed=3, num_inference_steps=4
    )
    assert_same(images, frames[0])


def test_a_contract_of_the_tests_is_the_real_thing():
    assert tiny_contract().timesteps() == (999, 749, 499, 249)
