"""Lineage for people and for lineage servers: from an image to its source rows, and as OpenLineage events."""
