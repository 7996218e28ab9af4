"""HH-Net (Ge et al.): which of seven classes of focus one colour frame of a stained smear belongs to."""
