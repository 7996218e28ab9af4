"""The layout of the original, for comparison: the planes of a scan are the channels of one network.

Coarse: three planes, a softmax of three. Fine: seven planes, seven sigmoids trained with binary cross-entropy
on labels that hold three ones. So each kind of scan, number of planes and spacing needs a network of its own,
and each says that one of its planes is in focus whatever it is shown. The original's backbones are MobileNet
(width 1.2) and EfficientNetB2; here any of `BACKBONES`, the small one by default, which suits few data.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import cosine_optimiser, import_keras
from bluesky_autofocus.models.key_frame._model import Scan
from bluesky_autofocus.models.key_frame._posterior import label
from bluesky_autofocus.models.key_frame.train import STRIDE, CellStacks

__all__ = ["BACKBONES", "PublishedOptions", "train_published"]

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class PublishedOptions:
    """How the network is trained.

    Parameters
    ----------
    backbone : str
        One of `BACKBONES`.
    steps, batch : int
        Number of batches, scans a batch.
    learning_rate : float
        Of Adam; the original's 0.008 did not converge with so few data.
    seed : int
        Of everything.
    """

    backbone: str = "small"
    steps: int = 1500
    batch: int = 16
    learning_rate: float = 1e-3
    seed: int = 0


def _small(keras: Any, shape: tuple[int, int, int]) -> Any:
    x = inputs = keras.Input(shape)
    for filters, side, stride in ((32, 5, 2), (32, 3, 2), (48, 3, 2), (64, 3, 2), (64, 3, 1)):
        x = keras.layers.Conv2D(filters, side, stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.95)(x)
        x = keras.layers.Activation("relu")(x)
    pooled = [keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalMaxPooling2D()(x)]
    return keras.Model(inputs, keras.layers.Dropout(0.3)(keras.layers.Concatenate()(pooled)))


def _mobilenet(keras: Any, shape: tuple[int, int, int]) -> Any:
    return keras.applications.MobileNet(
        input_shape=shape, alpha=1.2, include_top=False, weights=None, pooling="avg"
    )


BACKBONES: dict[str, Callable[[Any, tuple[int, int, int]], Any]] = {
    "small": _small,
    "mobilenet": _mobilenet,
}


def train_published(
    stacks: CellStacks,
    scan: Scan,
    n_planes: int,
    *,
    patch_px: int,
    options: PublishedOptions = PublishedOptions(),
    progress: Callable[[int, int], None] | None = None,
) -> Predict:
    """Train a network for one kind of scan.

    Parameters
    ----------
    stacks : CellStacks
        To train on.
    scan : Scan
        Its spacing and labels.
    n_planes : int
        Of the scan.
    patch_px : int
        Side of the patches.
    options : PublishedOptions
        How.
    progress : callable, optional
        Called with steps done and steps in all.

    Returns
    -------
    callable
        Takes scaled patches, shape (n, n_planes, patch_px, patch_px), and returns probabilities of the
        planes, shape (n, n_planes).
    """
    keras, tf = import_keras()
    keras.utils.set_random_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    softmax = scan.in_focus == 1
    body = BACKBONES[options.backbone](keras, (patch_px, patch_px, n_planes))
    model = keras.Model(body.input, keras.layers.Dense(n_planes)(body.output))
    optimiser = cosine_optimiser(keras, model.trainable_variables, options.learning_rate, options.steps)

    @tf.function
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            out = model(x, training=True)
            if softmax:
                loss = tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=out)
            else:
                loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=out)
            loss = tf.reduce_mean(loss)
        variables = model.trainable_variables
        optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for done in range(options.steps):
        drawn = [
            _drawn(stacks, int(cell), scan, n_planes, patch_px, rng)
            for cell in rng.integers(len(stacks), size=options.batch)
        ]
        x, y = (np.stack(one) for one in zip(*drawn, strict=True))
        step(tf.constant(x), tf.constant(y))
        if progress is not None and (done % 20 == 19 or done == options.steps - 1):
            progress(done + 1, options.steps)
    run = tf.function(lambda x: model(x, training=False))

    def predict(patches: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = []
        for start in range(0, len(patches), 64):
            x = np.ascontiguousarray(patches[start : start + 64].transpose(0, 2, 3, 1))
            out = run(tf.constant(x))
            parts.append((tf.nn.softmax(out) if softmax else tf.sigmoid(out)).numpy())
        return np.concatenate(parts)

    return predict


def _drawn(
    stacks: CellStacks, cell: int, scan: Scan, n_planes: int, patch_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a scan with the focus in it, disturbed, channels last, and its label of zeros and ones."""
    stride, planes = STRIDE[scan.name], stacks.patches.shape[1]
    span = stride * (n_planes - 1)
    marked = (scan.in_focus - 1) // 2
    at = rng.uniform(marked - 0.5, n_planes - 1 - marked + 0.5) * stride
    first = int(np.clip(round(float(stacks.focus[cell]) - at), 0, planes - 1 - span))
    which = first + stride * np.arange(n_planes)
    room = stacks.patches.shape[-1] - patch_px
    top, left = rng.integers(room + 1, size=2)
    patches = stacks.patches[cell][which][:, top : top + patch_px, left : left + patch_px].astype(np.float32)
    patches = np.rot90(patches, int(rng.integers(4)), (1, 2))
    patches = patches[:, :, ::-1] if rng.random() < 0.5 else patches
    patches = patches * np.float32(rng.uniform(0.7, 1.3) / (patches.std() + 1e-6))
    patches += np.float32(rng.uniform(0, 0.25)) * rng.standard_normal(patches.shape, np.float32)
    nearest = np.clip(np.rint((stacks.focus[cell] - first) / stride), marked, n_planes - 1 - marked)
    return np.ascontiguousarray(patches.transpose(1, 2, 0)), label(nearest, n_planes, scan.in_focus)[1:-1]
