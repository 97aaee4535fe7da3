"""The zoo: small networks that ship with the package, of the same classes as in production (§7)."""
