"""The embedded sample task: its house style, a program that scores answers by it, and the data made from both."""
