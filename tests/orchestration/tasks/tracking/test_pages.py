"""Searches in MLflow that read every page."""

import pytest

from rlhf_core.errors import ConfigError
from tasks.analysis import mlflow_runs
from tasks.tracking import pages


def test_every_page_of_models_and_versions_is_read(registry, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 1)
    models = [model.name for model in pages.registered_models(registry.client)]
    assert models == ["tiny-ledger", "tiny-policy", "tiny-reward"]
    order = ["version_number ASC"]
    found = pages.model_versions(registry.client, "name = 'tiny-policy'", order)
    assert [str(version.version) for version in found] == ["1", "2", "3", "4", "5"]
    assert list(pages.model_versions(registry.client, "name = 'nosuch'")) == []


def test_a_model_on_a_later_page_is_found_where_a_reference_is_wrong(registry, monkeypatch):
    monkeypatch.setattr(pages, "PAGE", 1)
    with pytest.raises(ConfigError, match="tiny-reward has versions 1, 2 and aliases @candidate"):
        mlflow_runs.version(registry.client, "tiny-reward@nosuch")


def test_a_number_that_no_database_holds_is_no_version(registry):
    reference = f"tiny-reward/{10**30}"
    with pytest.raises(ConfigError, match=f"no model version '{reference}'; tiny-reward has"):
        mlflow_runs.version(registry.client, reference)
