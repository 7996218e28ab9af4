# An IPython profile directory: `ipython --profile-dir=PATH_TO_THIS_FOLDER`.
# What it connects is in startup/.
