"""The shape of a decoder-only model, from its configuration, and its number of parameters."""

from dataclasses import dataclass

from rlhf_core.errors import ConfigError

# rotary positions, RMS norms, gated MLP: the formulas are written for these
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a config.json that memory depends on.

    Linear maps have no bias unless a flag says so.
    """

    name: str
    source: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    tied: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    nominal: int | None = None  # a round parameter count, as papers use instead of the exact one

    @property
    def query_width(self) -> int:
        """Width of all queries of one token: heads * head_width; equals `hidden` in most models."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Width of all keys of one token, and of all values.

        With grouped queries it is smaller than query_width.
        """
        return self.kv_heads * self.head_width

    @property
    def embedding(self) -> int:
        """Parameters of the token embedding, and of an output layer that is not tied to it."""
        return self.vocabulary * self.hidden

    @property
    def layer_matrices(self) -> int:
        """Weights of one layer's linear maps: queries, keys, values, output; gate, up, down."""
        attention = 2 * self.hidden * self.query_width + 2 * self.hidden * self.kv_width
        return attention + 3 * self.hidden * self.intermediate

    @property
    def linear_maps(self) -> dict[str, tuple[int, int]]:
        """Input and output width of one layer's linear maps, by their names in these families."""
        D, Q, KV, inner = self.hidden, self.query_width, self.kv_width, self.intermediate
        return {
            "q_proj": (D, Q),
            "k_proj": (D, KV),
            "v_proj": (D, KV),
            "o_proj": (Q, D),
            "gate_proj": (D, inner),
            "up_proj": (D, inner),
            "down_proj": (inner, D),
        }

    @property
    def layer(self) -> int:
        """Parameters of one layer: its matrices, biases and norms."""
        biases = (
            self.qkv_bias * (self.query_width + 2 * self.kv_width) + self.output_bias * self.hidden
        )
        biases += self.mlp_bias * (2 * self.intermediate + self.hidden)
        return self.layer_matrices + biases + 2 * self.hidden + self.qk_norm * 2 * self.head_width

    @property
    def backbone(self) -> int:
        """Embedding, layers and the final norm."""
        return self.embedding + self.layers * self.layer + self.hidden

    @property
    def policy(self) -> int:
        """Parameters of the language model: the backbone and, unless tied, the output layer."""
        return self.nominal or self.backbone + (0 if self.tied else self.embedding)

    @property
    def scalar(self) -> int:
        """Parameters of a reward model or critic: the backbone and a head of one row."""
        return self.nominal or self.backbone + self.hidden


def shape_of(config: dict, name: str, source: str) -> ModelShape:
    """Return the shape in a config.json's values.

    Raises ConfigError for a family without formulas or a missing key.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(
            f"{source} describes a model of type {family!r}; memory formulas are written for"
            f" {', '.join(FAMILIES)}. Plan with a preset of like size, e.g. --model 7b."
        )
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            name=name,
            source=source,
            vocabulary=int(config["vocab_size"]),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or hidden // heads),
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
            output_bias=family != "qwen2" and bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=family == "qwen3",
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(
            f"{source} is not a usable config.json ({type(error).__name__}: {error}); expected"
            " positive numbers under hidden_size, intermediate_size, num_hidden_layers,"
            " num_attention_heads and vocab_size."
        ) from None
