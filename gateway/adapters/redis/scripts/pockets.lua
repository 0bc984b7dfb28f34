-- Shared by the steps that set what a pocket of a person's account holds.

local GREATEST_AVAILABLE = 9000000000000000

-- The account with its pockets, made where it does not exist; nil where it is of another kind. Then what the account says of
-- `field`: an id that was applied is remembered as long as the account.
local function person_account(key, field)
  local account, before = account_of(key, field)
  if account then return account.pockets and account.unit == 'nanousd' and account or nil, false, before end
  account = {unit = 'nanousd', available = 0, held = 0, credited = 0, posted = 0, debt = 0, shortfalls = 0, pockets = {}}
  for i = 1, 3 do account.pockets[i] = {available = 0, held = 0, posted = 0} end
  return account, true
end

local function too_great(account, more)
  return account.available + more > GREATEST_AVAILABLE or account.credited + more > EXACT
end

-- Add `more` (also below zero) to what a pocket has available, as one journal entry.
local function adjust(journal_key, account, account_id, place, more, id, now, cause)
  if more == 0 then return end
  account.available = account.available + more
  account.credited = account.credited + more
  account.pockets[place].available = account.pockets[place].available + more
  local kind = more > 0 and 'credit' or 'debit'
  journal(journal_key, kind, now, account_id, id, digits(more) .. ' 0 ' .. digits(more) .. ' 0 0',
    (more > 0 and ' source=plan' or '') .. ' cause=' .. cause)
end

-- What sets the limit of what may be owed: how much the postpaid pocket gets (below zero: loses), and how much more goes as
-- soon as holds give it back.
local function limit_change(account, limit)
  local pocket = account.pockets[3]
  local over = pocket.available + pocket.held + pocket.posted - limit
  local more = math.max(-over, -pocket.available)
  return more, math.min(math.max(over + more, 0), pocket.held)
end

local function save_person(key, index, account_id, account, fresh)
  if fresh then
    call('SADD', index, account_id)
    call('HSET', key, 'unit', 'nanousd', 'class', 'person', 'debt', '0', 'rate', '0', 'shortfalls', '0')
  end
  save_account(key, account)
  call('HSET', key, 'credited', digits(account.credited))
end
