package hsm

// The known answers of wrapping mechanisms.
var (
	AnswerKEK = answerKEK
	AnswerKey = answerKey
	AnswerKW  = answerKW
	AnswerKWP = answerKWP
)

// AnswersAs reports whether a mechanism wraps the known key to answer.
func (c Calls) AnswersAs(mechanism uint, answer []byte) (bool, error) {
	return session{c.link, c.Session}.answersAs(wrapMechanism{id: mechanism, answer: answer})
}
