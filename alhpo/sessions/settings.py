"""The settings of a session, kept as ``session.yaml`` in its folder, where they may be changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic import Field

from alhpo.base.errors import ConfigurationError
from alhpo.base.files import content_hash, write_text
from alhpo.runs.config_files import read_config_file
from alhpo.runs.identity import INCIDENTAL_KEYS
from alhpo.runs.setting_groups import CycleSettings, naming

FILE = "session.yaml"
#: Formats of questions, and of what is exported.
QUESTIONS = ("csv", "label-studio", "folder")
EXPORTS = ("csv", "folders", "label-studio", "model")
#: The defaults of a session that differ from those of a run: a head on features of a pretrained
#: network is trained in seconds, and these strategies led where we compared them on such features.
DEFAULTS: dict[str, Any] = {
    "recipe": "frozen",
    "strategy": "uherding",
    "initial": "maxherding",
    "query_subset": 10_000,
}
#: Settings that do not make another model.
_NO_MODEL = INCIDENTAL_KEYS | {"images", "eval", "strategy", "initial", "query_subset", "hpo"}


class SessionSettings(CycleSettings):
    """Everything that a session is to do, apart from what people say."""

    images: str = Field(
        min_length=1,
        description="Folder of the photos (with its sub-folders), or a table of them.",
    )
    eval: str | None = Field(
        None,
        description="Labelled images to measure accuracy on: a folder with one sub-folder per "
        "class, a table with labels, or a share such as 0.1: each photo is kept for it with that "
        "probability, by its content, and people label them too (ask --evaluation). By default "
        "none.",
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="Side in pixels to which photos are decoded; by default that of the network, "
        "or 224.",
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _defaults_of_a_session(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = DEFAULTS | dict(values)
        if isinstance(given.get("eval"), float):
            given["eval"] = str(given["eval"])
        if given["recipe"] in ("frozen", "finetune") and given.get("weights") is None:
            given.setdefault("pretrained", True)
        return given

    @pydantic.model_validator(mode="after")
    def _usable_in_a_session(self) -> SessionSettings:
        from alhpo.strategies import get_strategy, strategy_needs

        with naming("strategy", self.strategy):
            if strategy_needs(get_strategy(self.strategy)) & {"retrain", "true_labels"}:
                raise ConfigurationError(
                    "It looks at labels that nobody gave yet, so it is for simulations only. "
                    "Choose another."
                )
        with naming("hpo", self.hpo):
            if self.mode.final_search:
                raise ConfigurationError(
                    "A session has no last cycle. Legal: fixed, initial, per-cycle, every:K."
                )
            self.mode.cycles((1,))  # refuses numbers of labels that a session cannot promise
        self.check_search_budget(self.max_budget)
        return self

    @property
    def model_identity(self) -> str:
        """A hash of everything that a fit depends on, apart from photos and labels."""
        return content_hash(self.model_dump(exclude=set(_NO_MODEL)))

    def write(self, folder: Path) -> None:
        """Write ``session.yaml``."""
        write_text(folder / FILE, yaml.safe_dump(self.model_dump(), sort_keys=False))

    @classmethod
    def places(cls, folder: Path) -> tuple[str, str | None]:
        """The settings ``images`` and ``eval``, without looking up the others, which takes seconds.

        Raises:
            ConfigurationError: the file is missing or damaged.
        """
        path = folder / FILE
        values = read_config_file(path)
        images, evaluation = values.get("images"), values.get("eval")
        if not isinstance(images, str):
            raise ConfigurationError(
                f"{path} says images: {images!r}; expected the folder or table of the photos."
            )
        return images, None if evaluation is None else str(evaluation)

    @classmethod
    def read(cls, folder: Path) -> SessionSettings:
        """The settings in ``session.yaml``.

        Raises:
            ConfigurationError: the file is missing or damaged, or holds illegal settings.
        """
        path = folder / FILE
        values = read_config_file(path)
        try:
            return cls.create(values)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error
