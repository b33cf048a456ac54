"""Language: what is written of clips, and what is made of prompts."""
