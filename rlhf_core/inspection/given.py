"""Checks of models that a recipe gives, by their folders."""

from pathlib import Path

from rlhf_core.config import PPO
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.padding import require_own_pad
from rlhf_core.modeling.reading import reads_the_same, reward_reading
from rlhf_core.modeling.trainable import require_weights
from rlhf_core.modeling.vocabulary import require_embeddings


def require_usable(folder: Path) -> None:
    """Raise BadInput when a model lacks weights, or embeddings for its tokenizer."""
    require_weights(folder)
    require_embeddings(load_tokenizer(folder), folder)


def require_reward(reward: Path, ppo: PPO | None, model: Path) -> None:
    """Raise BadInput for a reward model whose padding may end a conversation.

    ppo: where it scores the replies of `model`, which must then be read as PPO needs it; else None.
    """
    require_own_pad(reward)
    if ppo:
        reward_reading(ppo, model, reward)


def folders_read_the_same(reader: Path, writer: Path) -> bool:
    """Return True if the tokenizers and templates of both give every conversation the same ids."""
    return reads_the_same(load_tokenizer(reader), load_tokenizer(writer))
