"""What measures images: the networks that judge them, the LLM score, and the facts about each metric (§8)."""
