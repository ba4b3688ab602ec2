# SPDX-License-Identifier: LGPL-2.1-only
"""Figures of a benchmark as people read them: medians, how far they spread, ratios, and a picture.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5",
            "#9c6b4e", "#9498a0", "#1b6e53", "#7a1f3d")


def median(values: Sequence[float]) -> float:
    """The middle one, as the spread of a few runs on a busy machine leaves it alone."""
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    """The median, and the least and the largest."""
    return f"{_short(median(values))} ({_short(min(values))} to {_short(max(values))})"


def ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """The median of the ratios of values that were measured one beside the other."""
    return f"{median([a / b for a, b in zip(values, base, strict=True)]):.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def bars(title: str, bars: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """Stacked bars as SVG: each has a name and its parts, as name and seconds."""
    longest = max(sum(seconds for _, seconds in parts) for _, parts in bars)
    names = list(dict.fromkeys(name for _, parts in bars for name, _ in parts))
    colour = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    scale = 560 / longest
    drawn = [_text(10, 22, title, 15)]
    for row, (label, parts) in enumerate(bars):
        x, y = 130.0, 40 + 34 * row
        drawn.append(_text(10, y + 17, label))
        for name, seconds in parts:
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{seconds * scale:.1f}" height="24" '
                         f'fill="{colour[name]}"><title>{name}: {seconds:.2f} s</title></rect>')
            x += seconds * scale
        drawn.append(_text(x + 6, y + 17, f"{sum(seconds for _, seconds in parts):.2f} s"))
    below = 60 + 34 * len(bars)
    for number, name in enumerate(names):
        x, y = 130 + number % 3 * 200, below + number // 3 * 22
        drawn.append(f'<rect x="{x}" y="{y - 11}" width="12" height="12" fill="{colour[name]}"/>')
        drawn.append(_text(x + 18, y, name))
    height = below + (len(names) + 2) // 3 * 22
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 {height}" '
            f'font-family="sans-serif">\n<rect width="780" height="{height}" fill="#fff"/>\n'
            + "\n".join(drawn) + "\n</svg>\n")


def _text(x: float, y: float, text: str, size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="#222">{text}</text>'


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
