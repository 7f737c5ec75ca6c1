"""Settings that name a secret."""

from pathlib import Path

from pydantic import Field, model_validator

from fl_main.settings.base import Section


class SecretSettings(Section):
    """A secret from a file or an environment variable, never from the settings themselves."""

    file: Path | None = Field(
        default=None, description="file that holds the token, relative to the settings file"
    )
    env: str | None = Field(default=None, description="environment variable that holds the token")

    @model_validator(mode="after")
    def _one(self) -> "SecretSettings":
        if bool(self.file) == bool(self.env):
            raise ValueError("give either file or env")
        return self
