"""Studies: one recipe trained in several variants, each from several seeds, and the tables that compare them."""
