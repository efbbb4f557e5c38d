"""What an encoder has learned of anatomy, measured without training: points found again.

A point of one scan is looked for in another by the similarity of embeddings. How far the answers
lie from the same organ's centre ranks the checkpoints of a pretraining.
"""

__all__ = ()
