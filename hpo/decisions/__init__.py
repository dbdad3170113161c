"""Questions with intervals: what is it worth, which is best, what will it take, which model is the champion?"""
