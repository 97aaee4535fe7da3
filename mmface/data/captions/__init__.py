"""Captions: supplied, written by a captioning model, or made from measured facts; ten per photograph, cut to fit."""

from mmface.data.captions.appearance import SEEN
from mmface.data.captions.captioning import Captions
from mmface.data.captions.facts import Facts, describe_facts, measure_facts

__all__ = ["SEEN", "Captions", "Facts", "describe_facts", "measure_facts"]
