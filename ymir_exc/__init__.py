"""The runtime inside AI training images: it reads the platform's files, writes its results, and never loses one.

Nothing is imported here, so that `import ymir_exc` costs nothing; take what you need from a submodule:

    from ymir_exc import dataset_reader, env, monitor, result_writer, util
"""
from ymir_exc._version import __version__ as __version__
