"""`python -m imgtf`, and what `accelerate launch -m imgtf` runs."""

from .cli import main

if __name__ == "__main__":
    main()
