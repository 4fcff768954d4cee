"""Names of the rows in a table of metrics that are no single subset or benchmark."""

MEAN = "mean"  # in the column `subset`: the unweighted mean over the subsets
ALL_IMAGES = "all images"  # each image of the benchmark counted once
NO_SUBSET = "-"  # a benchmark without scores
NOT_SUBSETS = (MEAN, ALL_IMAGES, NO_SUBSET)
OVERALL = "MEAN"  # in the column `benchmark`: the unweighted mean over the benchmarks
