"""The fastest safe YAML loader that is installed."""

import yaml

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader, if PyYAML was built with it: ten times faster."""
