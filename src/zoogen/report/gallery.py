"""Gallery: members that fit an image each, beside their originals, and how well they all do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from zoogen.report.canvas import GREY, head_line, place, style, title_of
from zoogen.report.data import Gallery, ReportData

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ACROSS, _SIDE, _GAP = 12, 0.66, 0.08
_LEFT, _TOP, _LABEL, _HISTOGRAM = 1.0, 0.75, 0.22, 1.6
_ROWS = ("original", "member", "4 × the pixels")


def galleries(data: ReportData) -> dict[str, Figure]:
    """Draw some members from the worst to the best, and the distribution of PSNR by split.

    Returns:
        File stem → figure; empty where the report has no gallery.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    if data.gallery is None:
        return {}
    with style():
        return {"gallery": _draw(data, data.gallery)}


def _draw(data: ReportData, gallery: Gallery) -> Figure:
    from matplotlib.figure import Figure

    strips = -(-len(gallery.psnr) // _ACROSS)
    strip = len(_ROWS) * (_SIDE + _GAP) + _LABEL
    width = _LEFT + _ACROSS * (_SIDE + _GAP) + 0.15
    height = _TOP + strips * strip + 0.35 + _HISTOGRAM + 0.5
    figure = Figure(figsize=(width, height))
    facts = [
        f"{len(data.members):,} members, {len(gallery.psnr)} shown at even ranks of PSNR",
        data.snapshot,
    ]
    head_line(figure, title_of(data, []), facts)
    for number in range(len(gallery.psnr)):
        row, column = divmod(number, _ACROSS)
        left, top = _LEFT + column * (_SIDE + _GAP), height - _TOP - row * strip
        _images(figure, gallery, number, left, top, named=column == 0)
    _histogram(figure, data, width)
    return figure


def _images(
    figure: Figure, gallery: Gallery, number: int, left: float, top: float, named: bool
) -> None:
    """One member's column of images, its PSNR above."""
    stack = (gallery.originals, gallery.shown, gallery.between)
    for line, (name, images) in enumerate(zip(_ROWS, stack, strict=True)):
        bottom = top - _LABEL - _SIDE - line * (_SIDE + _GAP)
        axes = place(figure, left, bottom, _SIDE, _SIDE)
        axes.imshow(_picture(images[number]), cmap="gray", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        if named:
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
        if line == 0:
            axes.set_title(f"{gallery.psnr[number]:.1f} dB", fontsize=7, pad=3)


def _picture(image: Float[np.ndarray, "c h w"]) -> Float[np.ndarray, "h w *rgb"]:
    """What matplotlib draws: colours last and within [0, 1]; other than three channels as grey."""
    cut = np.clip(image, 0, 1)
    return np.moveaxis(cut, 0, -1) if len(cut) == 3 else cut.mean(axis=0)


def _histogram(figure: Figure, data: ReportData, width: float) -> None:
    axes = place(figure, _LEFT, 0.45, width - _LEFT - 0.15, _HISTOGRAM)
    known = data.members.dropna(subset="psnr")
    bins = int(np.clip(len(known) // 5, 10, 100))
    edges = np.linspace(known["psnr"].min() - 0.5, known["psnr"].max() + 0.5, bins).tolist()
    for (split, rows), colour in zip(
        known.groupby("split", sort=False), ("#4477AA", "#EE6677"), strict=False
    ):
        label = f"{split} images: {len(rows):,} members, median {rows['psnr'].median():.1f} dB"
        axes.hist(rows["psnr"], edges, histtype="step", density=True, color=colour, label=label)
    axes.set_xlabel("PSNR at the pixels [dB]")
    axes.set_ylabel("density")
    axes.tick_params(colors=GREY)
    axes.legend(frameon=False, fontsize=7)
