"""Settings of a run, the daemon and an agent: typed, bounded, explained.

The classes are the reference: `setting/*.yaml`, the JSON Schemas and the settings page of the
docs say what stands here. How files and environment variables become these objects is in
`fl_main.settings.files`.
"""

from fl_main.settings.agent import AgentSettings
from fl_main.settings.aggregator import (
    AggregatorSettings,
    DatabaseSettings,
    LimitSettings,
    ListenSettings,
    RetentionSettings,
    TlsSettings,
    WebSettings,
)
from fl_main.settings.base import Section
from fl_main.settings.compression import CompressionSettings
from fl_main.settings.run import (
    CohortSettings,
    ConfigRule,
    EndSettings,
    EvaluateSettings,
    InitialSettings,
    QuarantineSettings,
    RoundSettings,
    RunSettings,
    StalenessSettings,
    TargetSettings,
)
from fl_main.settings.secret import SecretSettings

__all__ = [
    "AgentSettings",
    "AggregatorSettings",
    "CohortSettings",
    "CompressionSettings",
    "ConfigRule",
    "DatabaseSettings",
    "EndSettings",
    "EvaluateSettings",
    "InitialSettings",
    "LimitSettings",
    "ListenSettings",
    "QuarantineSettings",
    "RetentionSettings",
    "RoundSettings",
    "RunSettings",
    "SecretSettings",
    "Section",
    "StalenessSettings",
    "TargetSettings",
    "TlsSettings",
    "WebSettings",
]
