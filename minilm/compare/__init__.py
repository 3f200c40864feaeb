"""One question, answered with numbers: which objective is better for what?"""
