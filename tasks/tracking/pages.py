"""The results of a search in MLflow, page by page, because one answer has a limit."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.store.entities import PagedList

PAGE = 1000  # results per answer; MLflow allows no more registered models
_Item = TypeVar("_Item")


def pages(ask: "Callable[[str | None], PagedList[_Item]]") -> Iterator[_Item]:
    """Yield the results of a search that takes a page's token, of all pages."""
    token: str | None = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def registered_models(client: "MlflowClient") -> "Iterator[RegisteredModel]":
    """Yield every registered model."""
    return pages(lambda token: client.search_registered_models(max_results=PAGE, page_token=token))


def model_versions(
    client: "MlflowClient", condition: str, order_by: list[str] | None = None
) -> "Iterator[ModelVersion]":
    """Yield every version that meets MLflow's search condition."""
    return pages(
        lambda token: client.search_model_versions(
            condition, max_results=PAGE, order_by=order_by, page_token=token
        )
    )
