"""Data sources: functions that find the images of a data set.

One file per source. A new source is a function with the decorator ``@register_data_source``, in a
module imported here, or in another package under the entry point group ``alhpo.data_sources``.
"""

from alhpo.data.sources import digits as digits
from alhpo.data.sources import medmnist as medmnist
from alhpo.data.sources import table as table
from alhpo.data.sources import timm_factory as timm_factory
from alhpo.data.sources import tiny_imagenet as tiny_imagenet
from alhpo.data.sources.find import find_source
from alhpo.data.sources.registry import data_source_names, register_data_source
from alhpo.data.sources.source import DatasetSize, DataSource, SourceData, SourceOptions

__all__ = [
    "DataSource",
    "DatasetSize",
    "SourceData",
    "SourceOptions",
    "data_source_names",
    "find_source",
    "register_data_source",
]
