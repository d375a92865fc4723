"""Line charts of the page: ECharts, in colours that are told apart in light and dark and without colour vision."""

from collections.abc import Collection, Mapping, Sequence

from nicegui import ui

COLORS = ("#4f6bed", "#d97706", "#0f9d7a", "#c2417a", "#7c5cd6")
"""The same hues read on both backgrounds."""
FAINT, LINE = "#8a90a0", "rgba(138, 144, 160, 0.25)"
Points = Sequence[tuple[float, float | None]]


def line_chart(title: str, x_name: str = "", *, of_time: bool = False) -> ui.echart:
    """Return an empty chart; a screen reader reads its title, and the figures are beside it as text."""
    axis = {"axisLabel": {"color": FAINT, "hideOverlap": True}, "axisLine": {"lineStyle": {"color": LINE}}}
    chart = ui.echart(
        {
            "animation": False,
            "color": list(COLORS),
            "title": {"text": title, "textStyle": {"fontSize": 13, "fontWeight": 600, "color": FAINT}, "top": 0},
            "grid": {"left": 8, "right": 16, "top": 58, "bottom": 24 if x_name else 8, "containLabel": True},
            "legend": {"top": 22, "left": 0, "itemHeight": 8, "textStyle": {"color": FAINT}, "type": "scroll"},
            # ECharts writes a tooltip as HTML unless it is told to draw it.
            "tooltip": {"trigger": "axis", "renderMode": "richText", "confine": True},
            "xAxis": axis
            | {"type": "time" if of_time else "value", "name": x_name, "nameLocation": "middle", "nameGap": 26}
            | {"nameTextStyle": {"color": FAINT}, "min": "dataMin", "max": "dataMax", "splitLine": {"show": False}},
            "yAxis": axis | {"type": "value", "scale": True, "splitLine": {"lineStyle": {"color": LINE}}},
            "series": [],
        },
        renderer="svg",
    )
    return chart.classes("chart").props(f'role=img aria-label="{title}"')


def draw(
    chart: ui.echart, series: Mapping[str, Points], *, dashed: Collection[str] = (), reach: float | None = None
) -> None:
    """Show these series, by name; those in `dashed` are drawn so. `reach`: how far the axis goes up and down from 0."""
    if reach:
        axis = chart.options["yAxis"]
        chart.options["yAxis"] = axis | {
            "min": -reach,
            "max": reach,
            "axisLabel": axis["axisLabel"] | {"showMinLabel": False, "showMaxLabel": False},
        }
    chart.options["series"] = [
        {
            "name": name,
            "type": "line",
            "data": [[x, y] for x, y in points],
            "showSymbol": len(points) < 2,
            "lineStyle": {"width": 2, "type": "dashed" if name in dashed else "solid"},
            "connectNulls": True,
        }
        for name, points in series.items()
    ]
    chart.update()
