"""Answers from a language model: the decode loop, batches of prompts, bulk inference."""
