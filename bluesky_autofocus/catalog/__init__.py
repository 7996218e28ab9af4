"""The catalogue: databroker on an embedded store by default, on a server by configuration."""

from bluesky_autofocus.catalog._catalog import Catalog, default_folder, open_catalog
from bluesky_autofocus.catalog._databases import CatalogError
from bluesky_autofocus.catalog._tail import SpoolTail

__all__ = ["Catalog", "CatalogError", "SpoolTail", "default_folder", "open_catalog"]
