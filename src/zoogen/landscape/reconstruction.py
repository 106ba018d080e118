"""How well a member shows the image that it fits."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.data import pixel_values, places
from zoogen.landscape.group import MemberView


def pixel_errors(view: MemberView) -> Float[Array, " n"]:
    """Squared error at every pixel of the member's image, the mean over channels; white is 1."""
    images, row = view.data.train, view.row
    _, _, height, width = images.shape
    values = pixel_values(images[row.image], view.task.white)
    params = view.task.network.spec.unflatten(row.w)
    shown = view.task.network.apply(params, jnp.asarray(places(height, width)))
    return jnp.mean(jnp.square(shown - values), axis=1)
