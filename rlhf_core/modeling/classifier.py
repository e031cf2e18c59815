"""The classes of reward models and critics: transformers' own, or a scalar head on a backbone.

Families such as Granite, Cohere and CodeGen have a causal model and no sequence classifier. They
get one here, built as transformers builds its own for Llama or Qwen, with the same names of
weights. A transformers that has the class by then loads such a folder as it is.
"""

from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification

from rlhf_core.errors import BadInput
from rlhf_core.modeling.requirements import WITHOUT_SCALAR_HEAD


def classifier_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Return the class that loads a one-label model with this configuration.

    That is transformers' auto class of token classifiers where the folder names one, else that of
    sequence classifiers, or the family's own class of `with_scalar_head`. Raises BadInput for a
    family that is no causal language model.
    """
    if reads_each_token(config):
        return AutoModelForTokenClassification
    family = type(config)
    if family in AutoModelForSequenceClassification._model_mapping:
        return AutoModelForSequenceClassification
    return with_scalar_head(family)


def reads_each_token(config: PretrainedConfig) -> bool:
    """Return True for the configuration of a token classifier, a token-level reward model."""
    names = config.architectures or []
    return any(name.endswith("ForTokenClassification") for name in names)


def with_scalar_head(family: type[PretrainedConfig]) -> type[PreTrainedModel]:
    """Return a sequence classifier of a family: its backbone with the linear head `score`.

    Raises BadInput for a family that is no causal language model.
    """
    if family not in AutoModelForCausalLM._model_mapping:
        raise BadInput(
            f"{family.__name__} belongs to no causal language model of transformers; expected one"
            " for a reward model or critic. Take a model of another family."
        )
    causal = AutoModelForCausalLM._model_mapping[family]
    base = next(
        one
        for one in causal.__mro__
        if one.__name__.endswith("PreTrainedModel") and one is not PreTrainedModel
    )
    name = f"{family.__name__.removesuffix('Config')}ForSequenceClassification"
    # the generic class has a prefix of its own
    own = {"base_model_prefix": base.base_model_prefix, "config_class": family}
    return type(name, (GenericForSequenceClassification, base), own | {"__module__": __name__})


def require_family(config: PretrainedConfig, where: object) -> None:
    """Raise BadInput for a family that can have no scalar head."""
    if config.model_type in WITHOUT_SCALAR_HEAD:
        raise BadInput(
            f"{where} is of the family {config.model_type!r}, of which transformers makes no"
            " sequence classifier with one linear head; expected one for a reward model or critic."
            " Take a model of another family."
        )


def require_scalar_head(model: PreTrainedModel, where: object) -> None:
    """Raise BadInput unless the model's head is one linear map, named `score`, on its backbone."""
    weight = getattr(getattr(model, "score", None), "weight", None)
    if weight is None or len(weight) != 1:
        raise BadInput(
            f"{where}: the head of {type(model).__name__} is no single linear map `score`; expected"
            " that of a reward model or critic. Take a model of another family."
        )
