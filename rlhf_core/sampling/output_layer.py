"""vLLM's output layer after new weights, where it is tied to the embeddings."""

from torch import nn


def pack_output_layers(model: nn.Module) -> None:
    """Let vLLM pack the output layer of one of its models again.

    On a CPU it computes with a packed copy. Reloading the embeddings alone leaves that copy of a
    tied output layer as it was.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
