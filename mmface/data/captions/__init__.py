"""Captions: supplied, told by a captioning model, or made of measured facts; ten a picture, each fits the tokenizer."""

from mmface.data.captions.captioning import Captions
from mmface.data.captions.facts import SEEN, Facts, describe_facts, measure_facts

__all__ = ["SEEN", "Captions", "Facts", "describe_facts", "measure_facts"]
