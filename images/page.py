"""Image of the page: NiceGUI and what reads the gateway's log; no torch and no engine."""

from tuneline.images.packages import slim_image, with_locked
from tuneline.images.source import ENVIRONMENT, with_source

image = with_source(with_locked(slim_image(), "page").env(ENVIRONMENT), "ui")
