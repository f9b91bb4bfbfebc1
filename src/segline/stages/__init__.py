"""The stages of the line, one file each: ``run(params, *, <folders it reads>, out)``."""
