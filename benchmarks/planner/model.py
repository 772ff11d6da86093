"""The model that a plan is asked for: by its name, or by its own config.json on this machine."""

import json
from pathlib import Path

from apps.common.errors import UserError
from apps.slice.models import ModelShape, shape_from_config, shape_named


def shape_for(model: str) -> ModelShape:
    """The shape of a recorded model, or of the config.json that a path leads to (the file, or the directory that has it).

    A config.json does not say how large the vision encoder is: such a shape has none.

    Raises:
        UserError: no such model, or a config.json that cannot be read or whose model is not known here.
    """
    path = Path(model)
    if not (path.exists() or path.suffix == ".json" or model.startswith(("/", "./", "~"))):
        return shape_named(model)
    file = path.expanduser() / "config.json" if path.expanduser().is_dir() else path.expanduser()
    try:
        config = json.loads(file.read_text())
        return shape_from_config(config)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}): give a model's config.json, or a name") from None
    except (ValueError, AttributeError, TypeError):
        raise UserError(f"{file}: is no config.json of a language model") from None
