"""Judges beside VILA-Judge: scorers by public models, vision-language models asked a question, and several as one."""
