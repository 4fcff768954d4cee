"""Names that command-line options choose from. Importing this module costs nothing.

What each name stands for is in the module named beside it; tests compare the names with it.
"""

EVAL = "eval"
PAIRS = "pairs"
SCALED_VIEWS = ("scales", "delivered", PAIRS)  # a crop and the whole image
ONE_CROP_VIEWS = ("crop", "crop_flip", "release", "recompress", "reencode")
TRAIN_VIEWS = (EVAL, *ONE_CROP_VIEWS, *SCALED_VIEWS)  # data/images/augment.py
SAMPLINGS = ("shuffle", "class", "source")  # data/loading/epochs.py
BALANCES = ("class", "generator", "architecture")  # data/shards/order.py
PROTOCOLS = ("all", "release")  # data/benchmarks/benchmark.py
