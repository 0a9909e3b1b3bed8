from nbconv.base.image import *  # noqa: F403
