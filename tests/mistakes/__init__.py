"""The mistakes that beginners make, each with the text that they see and a rating of it.

A text that says what is wrong has one point, one that also says where has two, and one that also
says what to do has three. `python -m tests.mistakes` prints all of them.
"""
