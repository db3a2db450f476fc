"""The border: the only folder that knows diffusers, transformers and PEFT."""
