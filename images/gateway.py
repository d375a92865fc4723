"""Image of the gateway: an HTTP client, limits, metrics, tracing, scikit-learn for tasks; no torch and no engine."""

from tuneline.images.packages import slim_image, with_locked
from tuneline.images.source import ENVIRONMENT, with_source

image = with_source(with_locked(slim_image(), "gateway").env(ENVIRONMENT))
