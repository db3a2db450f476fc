"""The metrics: what each name in results.json means, and the function that computes it.

A metric gives every image one number whose mean is its value, so that intervals, comparison with
the teacher and pooling over trainings (`fewstep.evaluation.intervals`) are the same for all.
"""

import numpy as np

from fewstep.evaluation.intervals import Interval, proportion
from fewstep.evaluation.metrics.base import Metric, ratio
from fewstep.evaluation.metrics.frechet import Gaussian, frechet, frechet_paired
from fewstep.evaluation.metrics.pairs import (
    clip_score,
    mean_shift,
    psnr,
    rmse,
    same_noise_rmse,
    std_ratio,
)
from fewstep.evaluation.metrics.prompt_accuracy import all_right, by_attribute
from fewstep.evaluation.metrics.two_sets import cmmd, kid, pairwise_distance, precision, recall

# fmt: off
METRICS: dict[str, Metric] = {
    "prompt_accuracy": Metric(
        all_right, "Prompt accuracy",
        "share of images that show everything their caption says (all counts, shapes, colours, "
        "sizes, relations, the background)",
        "higher", ".1f", 100, "%",
        interval=proportion, of="verdicts", whole_set=True, parts=by_attribute),
    "prompt_accuracy_difference": Metric(
        np.subtract, "Accuracy − teacher’s",
        "prompt accuracy minus the teacher's at its full number of steps, in percentage points, "
        "paired by prompt and starting noise",
        "higher", "+.1f", 100, " pts", of="prompt_accuracy", against="teacher"),
    "prompt_accuracy_difference_unguided": Metric(
        np.subtract, "Accuracy − unguided teacher’s",
        "the same difference to the teacher without guidance, which is what a student that learnt "
        "from data alone imitates",
        "higher", "+.1f", 100, " pts", of="prompt_accuracy", against="unguided teacher"),
    "prompt_accuracy_difference_full_precision": Metric(
        np.subtract, "Accuracy − full precision’s",
        "prompt accuracy minus that of the same training without model.quantize and mixed "
        "precision, in percentage points, paired by prompt and starting noise",
        "higher", "+.1f", 100, " pts", of="prompt_accuracy", against="full precision"),
    "frechet": Metric(
        frechet, "Fréchet distance",
        "distance between the distribution of these images and that of the reference set, in the "
        "features of a small network; it falls with the number of images, so compare only where n "
        "is the same",
        "lower", ".2f", smallest_n=100,
        of="bundled", against="reference", prepare=Gaussian.fit, whole_set=True),
    "frechet_difference": Metric(
        np.subtract, "Fréchet − teacher’s",
        "Fréchet distance minus the teacher's at its full number of steps, paired by prompt and "
        "starting noise",
        "lower", "+.2f", smallest_n=100, of="frechet", against="teacher"),
    "frechet_ratio": Metric(
        ratio, "Fréchet ÷ teacher’s",
        "Fréchet distance as a multiple of the teacher's at its full number of steps",
        "lower", ".2f", smallest_n=100, unit=" ×", of="frechet", against="teacher"),
    "frechet_ratio_full_precision": Metric(
        ratio, "Fréchet ÷ full precision’s",
        "Fréchet distance as a multiple of that of the same training without model.quantize and "
        "mixed precision",
        "lower", ".2f", smallest_n=100, unit=" ×", of="frechet", against="full precision"),
    "bundled_recall": Metric(
        recall, "Recall, small network",
        "share of reference renderings that lie among these images, in the features of the small "
        "network; n counts the renderings, and it rises with the number of images",
        "higher", smallest_n=100, interval=proportion,
        of="bundled", against="reference", whole_set=True),
    "bundled_recall_ratio": Metric(
        ratio, "Recall ÷ teacher’s",
        "this recall as a multiple of the teacher's at its full number of steps",
        "higher", ".2f", smallest_n=100, unit=" ×", of="bundled_recall", against="teacher"),
    "diversity": Metric(
        pairwise_distance, "Diversity",
        "mean distance between the eight images of a prompt, in the features of the small "
        "network; n counts the prompts",
        "higher", ".2f", of="images of a prompt"),
    "diversity_ratio": Metric(
        ratio, "Diversity ÷ teacher’s",
        "diversity as a multiple of the teacher's at its full number of steps, of the same prompts "
        "and starting noises",
        "higher", ".2f", unit=" ×", of="diversity", against="teacher"),
    "fid": Metric(
        frechet, "FID",
        "Fréchet distance to the real images in Inception's features; it falls with the number of "
        "images, so compare only where n is the same",
        "lower", ".2f", smallest_n=2048,
        of="inception", against="reference", prepare=Gaussian.fit, whole_set=True),
    "fid_teacher": Metric(
        frechet_paired, "FID to the teacher",
        "the same distance to the teacher's own images at its full number of steps",
        "lower", ".2f", smallest_n=2048, of="inception", against="teacher", whole_set=True),
    "kid": Metric(
        kid, "KID",
        "Kernel Inception Distance to the real images, times 1000: unbiased, so its mean does not "
        "depend on the number of images",
        "lower", ".2f", 1000, smallest_n=100,
        of="inception", against="reference", whole_set=True),
    "cmmd": Metric(
        cmmd, "CMMD", "the same idea in CLIP's embeddings of whole images", "lower",
        smallest_n=100, of="clip-l14-336", against="reference", whole_set=True),
    "precision": Metric(
        precision, "Precision",
        "share of images that lie among the real ones, in Inception's features", "higher",
        smallest_n=100, interval=proportion, of="inception", against="reference", whole_set=True),
    "recall": Metric(
        recall, "Recall",
        "share of real images that lie among these, in Inception's features; n counts the real "
        "ones", "higher",
        smallest_n=100, interval=proportion, of="inception", against="reference", whole_set=True),
    "clip_score": Metric(
        clip_score, "CLIP score",
        "cosine between the CLIP embeddings of image and prompt; only numbers of one backbone may "
        "be compared, and this one is ViT-L/14",
        "higher", ".4f", of="clip-l14", against="prompts"),
    "clip_score_difference": Metric(
        np.subtract, "CLIP score − teacher’s",
        "CLIP score minus the teacher's at its full number of steps, paired by prompt and starting "
        "noise",
        "higher", "+.4f", of="clip_score", against="teacher"),
    "same_noise_rmse": Metric(
        same_noise_rmse, "Same-noise distance",
        "root mean squared distance of each image to the teacher's from the same starting noise "
        "and prompt, white being 1; it means nothing for a sampler that adds fresh noise",
        "lower", against="teacher"),
    "same_noise_rmse_unguided": Metric(
        same_noise_rmse, "Same-noise distance, unguided",
        "the same distance to the image of the teacher without guidance, for students that learnt "
        "from data alone",
        "lower", against="unguided teacher"),
    "same_noise_psnr": Metric(
        psnr, "Same-noise PSNR", "the same distance in decibels, averaged over images",
        "higher", ".1f", unit=" dB", against="teacher"),
    "latent_rmse": Metric(
        rmse, "Latent distance", "the same distance between latents, before they are decoded",
        "lower", of="latents", against="teacher"),
    "latent_std_ratio": Metric(
        std_ratio, "Latent contrast",
        "spread of each channel of the latents over that of the teacher's from the same noise; "
        "below 1 images are flatter than the teacher's, above it harsher",
        "nearer to 1", of="latents", against="teacher"),
    "latent_mean_shift": Metric(
        mean_shift, "Latent shift",
        "distance of each channel's mean to that of the teacher's from the same noise",
        "lower", of="latents", against="teacher"),
    "latent_frechet": Metric(
        frechet_paired, "Latent Fréchet distance",
        "Fréchet distance to the teacher's own latents, averaged over 4 x 4 cells of each channel; "
        "it falls with the number of images",
        "lower", smallest_n=100, of="pooled latents", against="teacher", whole_set=True),
    "self_consistency": Metric(
        rmse, "Self-consistency residual",
        "distance between the student's jumps from neighbouring points of the teacher's "
        "trajectory, root mean square in latents; 0 would be a perfect consistency model",
        "lower", ".4f", of="trajectory"),
    "step_agreement": Metric(
        rmse, "Distance to its most steps",
        "distance of the latents to those that the same student makes in its largest number of "
        "steps from the same noise",
        "lower", of="latents", against="most steps"),
    "seconds_per_image": Metric(
        np.asarray, "Seconds an image",
        "time for one image that is generated alone, decoding included, on the machine named here",
        "lower", "#.3g", of="cost"),
    "peak_memory": Metric(
        np.asarray, "Peak memory",
        "the most memory of the GPU that generating used, networks included",
        "lower", ".2f", 1e-9, " GB", of="cost"),
    "training_core_seconds": Metric(
        np.asarray, "Core-seconds of training",
        "processor time of one core that training took from zero: encoding the data, the student "
        "that it starts from, all updates",
        "lower", ".0f", unit=" s", of="cost"),
}
"""Every metric by its name in results.json."""
# fmt: on

SHIPPED = frozenset(METRICS)
"""Those that are not added from outside."""

__all__ = ["METRICS", "Interval", "Metric"]
