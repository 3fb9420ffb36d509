"""JapaneseVowels of the UEA archive: its two .ts files, taken out of the wheel of the package aeon.

    python datasets/japanese_vowels/prepare.py [--out DIR] [--wheel aeon-1.6.0-py3-none-any.whl]

Without a wheel, pip downloads it (6 MB); aeon is neither installed nor imported.
"""

from tsdyn.data.archives import prepare

if __name__ == "__main__":
    prepare("japanese_vowels")
