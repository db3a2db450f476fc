"""What is known about a step that diverged: its captions, and numbers that are not finite."""

from fewstep.data.loader import Batches
from fewstep.training.divergence import WAY_ON, TrainingDivergedError, not_finite
from fewstep.training.setup import Components

LONGEST = 60
"""Characters of a caption that an error quotes."""


def explained(
    error: TrainingDivergedError, components: Components, batches: Batches
) -> TrainingDivergedError:
    """Return the error with its samples' captions and, where it is found, its cause."""
    captions = [repr(batches.caption_of(sample)[:LONGEST]) for sample in error.samples]
    what = f"{error.what}; see the samples with the captions {', '.join(captions)}"
    way_on = cause(error, components, batches) or WAY_ON
    return TrainingDivergedError(error.step, what, error.samples, way_on)


def cause(error: TrainingDivergedError, components: Components, batches: Batches) -> str | None:
    """Return what is not finite before the student's own part, and the way on; None if all is."""
    model, trained = components.config.model, {id(w) for w in components.state.trained.values()}
    base = {n: w for n, w in components.family.network.named_parameters() if id(w) not in trained}
    if broken := not_finite(base):
        return (
            f"The weights of model.base = {model.base!r} are not finite in {model.precision}, "
            f"first {broken[0]}: get the model again, or set model.precision to 'fp32'"
        )
    if not batches.batch(batches.reader(error.samples)).x_0.isfinite().all():
        where = "check these images, or use another autoencoder"
        if not components.config.data.streaming:
            where = f"delete {components.dataset.cache_folder} to encode them again"
        return f"The latents of these samples are not finite: {where}"
    return None
