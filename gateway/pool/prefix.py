"""How much of a prompt a worker's KV cache may already hold, judged by the text alone."""


def shared_prefix_length(a: str, b: str) -> int:
    """Count the characters that two texts have in common from their start.

    Bisects on slices, whose comparison runs at memory speed; a loop over characters would cost
    the event loop milliseconds for a long prompt.
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
