"""Why a detector says what it says: prototypes, families, distance from training, maps, stability."""
