"""Small stand-in weights that ship with the package, each of the class production uses (§7)."""
